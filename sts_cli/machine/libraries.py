"""Whether the model libraries work at all, before anything depends on it."""

from __future__ import annotations

from sts_cli.errors import ModelError


def check_libraries() -> None:
    """Import torch and transformers. Raises ModelError with the remedy if they are broken."""
    try:
        import torch  # noqa: F401
        from transformers import AttentionInterface, PreTrainedModel  # noqa: F401
    except Exception as error:  # a package built for another torch raises anything
        raise ModelError(explain(error)) from error


def explain(error: BaseException) -> str:
    """One sentence for a failed import, by what lies at its root."""
    root = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    if "torchvision" in f"{error} {root}":
        return (
            "The installed torchvision does not match torch, and transformers stumbles over it; "
            "install the pair from the same index, or run 'pip uninstall torchvision' (only models "
            "of Pixtral need it)."
        )
    words = " ".join(str(root).split())
    return (
        f"PyTorch and transformers do not import ({type(root).__name__}: {words[:200]}); "
        "run 'pip install --force-reinstall sts-cli'."
    )
