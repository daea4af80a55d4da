"""Finding models: every way in, and one helpful sentence for every way it can go wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest

from sts_cli.checkpoints import hub
from sts_cli.checkpoints.sources import demo_folder, fetched, find, usable
from sts_cli.errors import ModelError
from sts_cli.families import FAMILIES
from sts_cli.loading.model import untested
from sts_cli.machine.libraries import import_failure


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own, to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, offline, whatever the user's environment says."""
    for name in ("HF_HUB_CACHE", "TRANSFORMERS_OFFLINE", "STS_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "huggingface" / "hub"


def cache(hub_cache: Path, name: str, checkpoint: Path) -> Path:
    """Puts a checkpoint into the hub cache, laid out as huggingface_hub does."""
    repository = hub_cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    return Path(shutil.copytree(checkpoint, repository / "snapshots" / "0123abcd"))


def problem(name: str | Path) -> str:
    with pytest.raises(ModelError) as caught:
        find(str(name))
    return str(caught.value)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_folder_is_a_model(model: Path) -> None:
    source = find(str(model))
    assert (source.kind, source.path) == ("folder", model)
    assert source.checkpoint is not None
    assert source.checkpoint.model_type == "llava"
    assert source.checkpoint.tested


def test_the_environment_names_the_default(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STS_MODEL", str(model))
    assert find().path == model


def test_a_hub_id_comes_from_the_cache(hub_cache: Path, tiny_checkpoint: Path) -> None:
    snapshot = cache(hub_cache, "org/tiny", tiny_checkpoint)
    source = find("org/tiny")
    assert (source.name, source.kind, source.path) == ("org/tiny", "hub", snapshot)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_recognised(family: str, tmp_path: Path) -> None:
    checkpoint = find(str(checkpoints.write(family, tmp_path / family))).checkpoint
    assert checkpoint is not None
    assert checkpoint.model_type == family
    assert 0 < checkpoint.weights.layers < checkpoint.weights.parameters


def test_finding_imports_no_torch(model: Path) -> None:
    code = (
        "import sys; from sts_cli.checkpoints.sources import find, usable; "
        "find(sys.argv[1]); usable(); "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_hub_id_that_is_not_here_is_refused_offline(hub_cache: Path, model: Path) -> None:
    cache(hub_cache, "org/tiny", model)
    assert problem("org/tinny") == (
        f"'org/tinny' is not in the cache ({hub_cache}), and HF_HUB_OFFLINE forbids a download. "
        "Known here: demo, org/tiny. Did you mean 'org/tiny'?"
    )


def test_a_hub_id_that_is_only_half_here_is_refused_offline(hub_cache: Path, model: Path) -> None:
    snapshot = cache(hub_cache, "org/tiny", model)
    (snapshot / "model.safetensors").unlink()
    assert "is only partly in the cache" in problem("org/tiny")


def test_online_a_hub_id_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    source = find("some-org/some-model")
    assert (source.kind, source.path) == ("hub", None)


def test_a_hub_that_does_not_answer_is_one_sentence() -> None:
    code = (
        "from sts_cli.checkpoints.sources import find, fetched\n"
        "from sts_cli.errors import ModelError\n"
        "try: fetched(find('some-org/some-model'), print, print)\n"
        "except ModelError as error: print(error)"
    )
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=away, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Cannot fetch 'some-org/some-model' from the hub (")
    assert done.stdout.count("\n") == 1


def test_a_misspelt_name_is_corrected() -> None:
    assert problem("demmo") == (
        "No model 'demmo': not a folder, and a hub id looks like organisation/model. "
        "Known here: demo. Did you mean 'demo'?"
    )


def test_a_misspelt_folder_is_corrected(model: Path) -> None:
    assert problem(f"{model}s") == f"No folder '{model}s'. Did you mean '{model}'?"


@pytest.mark.parametrize("name", ["~nobody-of-that-name/m", "x" * 5000, "a/" + "x" * 5000])
def test_a_name_that_no_folder_can_have_is_one_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = problem(name)
    assert said.startswith("No ") and len(said) < 400
    monkeypatch.setenv("STS_MODEL", name)
    assert problem("") == said
    assert [one.problem for one in usable()] == [None, said]


def test_a_home_folder_is_found(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model.parent))
    assert find("~/model").path == model
    assert problem("~/modle") == f"No folder '~/modle'. Did you mean '{model}'?"


def test_the_name_that_was_typed_is_not_what_was_meant(
    hub_cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STS_MODEL", "nothing")
    assert problem("nothing").endswith("Known here: demo.")
    (cache(hub_cache, "org/half", model) / "model.safetensors").unlink()
    assert "half" not in problem("org/half").partition("Known here:")[2]
    (model.parent / "link").symlink_to("nowhere")
    assert problem(model.parent / "link").endswith("is a link to nowhere, which does not exist.")


def test_a_file_is_not_a_model(model: Path) -> None:
    file = model / "config.json"
    assert problem(file) == f"{file} is a file; give the folder of the model."


def test_a_folder_of_models_names_them(model: Path) -> None:
    assert problem(model.parent) == (
        f"{model.parent} is not a model: it has no config.json, but folders in it do: model."
    )


def test_a_lora_adapter_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "it is a LoRA adapter. Merge it into its base model first." in problem(tmp_path)


def test_gguf_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model-Q4_K_M.gguf").touch()
    assert "GGUF files are not supported" in problem(tmp_path)


def test_gguf_beside_a_config_is_not_a_checkpoint(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-Q4_K_M.gguf")
    assert problem(model) == (
        f"{model} has only GGUF weights. Use the model's safetensors checkpoint."
    )


def test_an_adapter_beside_full_weights_is_not_left_out_silently(model: Path) -> None:
    (model / "adapter_config.json").write_text("{}")
    assert "holds a LoRA adapter (adapter_config.json), which sts does not apply" in problem(model)


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_a_model_quantized_for_mlx_is_refused(key: str, model: Path) -> None:
    edit(model / "config.json", lambda config: config.update({key: {"group_size": 64, "bits": 4}}))
    assert "is quantized for MLX, which only Apple's library reads" in problem(model)


def test_pixtral_inside_llava_is_not_covered_by_tests(model: Path) -> None:
    edit(model / "config.json", lambda config: config["vision_config"].update(model_type="pixtral"))
    checkpoint = find(str(model)).checkpoint
    assert checkpoint is not None
    assert not checkpoint.tested
    assert "around 'llama' with the vision encoder 'pixtral'." in untested(checkpoint)


def test_torchvision_is_told_honestly() -> None:
    assert "only models of Pixtral need it" in import_failure(RuntimeError("torchvision::nms"))


def test_a_damaged_config_is_named(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "lla')
    assert problem(model) == f"{model}/config.json is not valid JSON; fetch the file again."


def test_a_text_model_is_refused(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "llama"}')
    assert problem(model) == (
        f"{model} is a 'llama' model without a vision encoder (vision_config). "
        f"Supported families: {', '.join(FAMILIES)}."
    )


def test_another_authors_format_names_the_conversion(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "llava_llama"}')
    assert "Use a conversion such as llava-hf/llava-1.5-7b-hf." in problem(model)


def test_custom_code_is_refused_where_it_is_needed(model: Path) -> None:
    code = {"auto_map": {"AutoConfig": "configuration_theirs.Config"}, "vision_config": {}}
    edit(model / "config.json", lambda config: config.update(code))
    assert find(str(model)).kind == "folder"  # llava needs none of it
    edit(model / "config.json", lambda config: config.update(model_type="theirs"))
    assert "needs Python code from its repository" in problem(model)


def test_a_family_that_is_not_listed_may_try(model: Path) -> None:
    edit(model / "config.json", lambda config: config.update(model_type="aya_vision"))
    checkpoint = find(str(model)).checkpoint
    assert checkpoint is not None
    assert not checkpoint.tested


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (("tokenizer.json",), "has no tokenizer (such as tokenizer.json). Copy it there."),
        (("preprocessor_config.json", "processor_config.json"), "has no image processor"),
        (("chat_template.jinja",), "has no chat template"),
        (("model.safetensors",), "has no weights (model.safetensors); fetch the model again."),
    ],
)
def test_a_missing_file_is_named(model: Path, files: tuple[str, ...], sentence: str) -> None:
    for name in files:
        (model / name).unlink()
    assert sentence in problem(model)


def test_a_chat_template_in_the_tokenizers_config_counts(model: Path) -> None:
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    edit(model / "tokenizer_config.json", lambda config: config.update(chat_template=template))
    assert find(str(model)).kind == "folder"


def test_pickle_weights_are_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert problem(model) == (
        f"{model} has only pickle weights (pytorch_model.bin), which can run any code when they "
        "are opened. Use a safetensors checkpoint."
    )


def test_a_truncated_file_is_named_with_its_size(model: Path) -> None:
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    assert problem(model) == (
        f"{weights} is damaged: it has {len(whole) - 1000:,} bytes, but by its header "
        f"it should have {len(whole):,}. Fetch it again."
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"1234", b"\xff" * 64, (9).to_bytes(8, "little") + b'{"a": 1} ', b"PK\x03\x04" * 10],
)
def test_a_file_that_is_no_safetensors_is_named(model: Path, content: bytes) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(content)
    assert problem(model) == (
        f"{weights} is not a safetensors file, or is damaged; fetch it again."
    )


def test_a_git_lfs_pointer_is_recognised(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert problem(model) == f"{weights} is only a git-lfs pointer; run 'git lfs pull' there."


def test_a_missing_shard_is_named(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert problem(model) == (
        f"{model} lacks 1 of 2 weight files (model-00002-of-00002.safetensors); fetch them again."
    )


@pytest.mark.parametrize("names", [{"a": 1}, {"a": ["b"]}, {"a": None}])
def test_an_index_of_no_names_is_refused(names: dict[str, Any], model: Path) -> None:
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert problem(model) == f"{index} has entries that are no file names; fetch the file again."


def test_a_shard_of_a_name_that_is_too_long_is_missing(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "x" * 300 + ".safetensors"}})
    )
    assert "lacks 1 of 1 weight files" in problem(model)


def test_usable_lists_what_works_and_why_the_rest_does_not(
    hub_cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STS_MODEL", str(model))
    cache(hub_cache, "org/good", model)
    (cache(hub_cache, "org/pickle", model) / "model.safetensors").unlink()
    (cache(hub_cache, "org/text", model) / "config.json").write_text('{"model_type": "llama"}')
    listed = {one.name: one for one in usable()}
    assert list(listed) == ["demo", str(model), "org/good", "org/pickle"]
    assert listed[str(model)].problem is None
    assert listed["org/good"].problem is None
    assert "only partly in the cache" in (listed["org/pickle"].problem or "")


def test_fetched_leaves_alone_what_is_here(model: Path) -> None:
    source = find(str(model))
    assert fetched(source, print, print) is source


def test_the_demo_is_named_when_it_is_missing() -> None:
    try:
        assert (demo_folder() / "config.json").is_file()
    except ModelError as error:
        assert "has no demo model" in str(error)


def test_the_cache_is_where_huggingface_hub_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/elsewhere/hub")
    assert hub.cache_folder() == Path("/elsewhere/hub")
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", "/home/hf")
    assert hub.cache_folder() == Path("/home/hf/hub")
