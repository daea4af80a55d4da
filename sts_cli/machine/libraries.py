"""A check that the model libraries work, before anything uses them."""

from __future__ import annotations

from sts_cli.errors import ModelError


def check_libraries() -> None:
    """Import torch and transformers. Raises ModelError if they are broken."""
    try:
        import torch  # noqa: F401
        from transformers import AttentionInterface, PreTrainedModel  # noqa: F401
    except Exception as error:  # a package built for another torch raises anything
        raise ModelError(import_failure(error)) from error


def import_failure(error: BaseException) -> str:
    """The message about a failed import and its first cause."""
    root = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    if "torchvision" in f"{error} {root}":
        return (
            "The installed torchvision does not match torch, so transformers fails. Install both "
            "from the same index, or run 'pip uninstall torchvision' (only models of Pixtral need "
            "it)."
        )
    words = " ".join(str(root).split())
    return (
        f"PyTorch and transformers cannot be imported ({type(root).__name__}: {words[:200]}); "
        "install sts again, in a new environment: sts docs install"
    )
