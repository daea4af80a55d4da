"""Blocks of rows, folders of shards, and the model that an actor holds. None of it needs Ray."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import no_waiting_for_the_disk, read_rows, sts, without_times

import sts_cli
from sts_cli.answering.request import Request
from sts_cli.cli.ray import with_address
from sts_cli.cluster.answerer import Answered, BlockAnswerer, Setup
from sts_cli.cluster.blocks import AHEAD, Block, Reading, in_blocks, rows_for
from sts_cli.cluster.node import Node, compare, look
from sts_cli.errors import ClusterError, OutputError
from sts_cli.inputs.images import prepare
from sts_cli.inputs.several import open_inputs
from sts_cli.machine.packages import to_install
from sts_cli.outputs.formats import format_named
from sts_cli.outputs.shards import Shards, in_shards
from sts_cli.records import Answer, Item, Problem, answer_row

__all__ = ["no_waiting_for_the_disk"]
SAMPLES = Path(__file__).parents[1] / "samples"

# Blocks


def about(images: list[int]) -> list[Item]:
    """An item about each of these images, numbered in their order."""
    return [Item(str(n), (f"{image}.png",), "?") for n, image in enumerate(images)]


@given(st.lists(st.integers(0, 12), max_size=80), st.integers(1, 9))
def test_every_item_is_in_one_block_and_those_about_an_image_in_one(images: list[int], rows: int):
    items = about(images)
    blocks = list(in_blocks(items, rows))
    assert [block.number for block in blocks] == list(range(len(blocks)))
    found = [item for block in blocks for item in block.items]
    assert sorted(found, key=lambda one: int(one.id)) == items
    assert all(rows <= len(block.items) < 5 * rows for block in blocks[:-1])
    near = AHEAD * rows >= len(items)  # all items stand near each other
    for image in set(images):
        asked = images.count(image)
        named = [{name for one in block.items for name in one.images} for block in blocks]
        holding = [names for names in named if f"{image}.png" in names]
        assert len(holding) == 1 or asked > 4 * rows or not near


@given(st.lists(st.integers(1, 6), max_size=300), st.integers(1, 9))
def test_items_whose_images_follow_each_other_stay_in_order(runs: list[int], rows: int):
    items = about([image for image, length in enumerate(runs) for _ in range(length)])
    blocks = list(in_blocks(items, rows))
    assert [item for block in blocks for item in block.items] == items
    images = [image for block in blocks for image in {item.images for item in block.items}]
    assert len(images) == len(set(images)) or max(runs) > 4 * rows


def test_items_without_an_image_are_not_about_the_same():
    items = [Item(str(n), problem=Problem("row_invalid", "x")) for n in range(5)]
    assert [len(block.items) for block in in_blocks(items, 2)] == [2, 2, 1]


def test_blocks_of_rows_that_carry_their_images_end_early():
    heavy = "data:image/png;base64," + "A" * (20 << 20)
    items = [Item(str(n), (f"{heavy}{n}",), "?") for n in range(5)]
    assert [len(block.items) for block in in_blocks(items, 100)] == [2, 2, 1]


@pytest.mark.parametrize(("count", "rows"), [(0, 8), (60, 8), (6400, 100), (10_000_000, 1000)])
def test_a_block_has_rows_by_the_input(count: int, rows: int):
    assert rows_for(count) == rows


def test_an_input_is_read_in_the_folder_of_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A task of Ray runs in another one; the images' folder is then a whole path."""
    (tmp_path / "in").mkdir()
    rows = [json.dumps({"image": f"{n}.png", "question": "?"}) for n in range(20)]
    (tmp_path / "in" / "q.jsonl").write_text("\n".join(rows))
    monkeypatch.chdir("/")
    reading = Reading(("in/q.jsonl",), None, None, str(tmp_path), None, (1, 1), rows=8)
    blocks = list(reading.blocks(written=frozenset({1})))
    assert [(block.number, len(block.items)) for block in blocks] == [(0, 8), (2, 4)]
    assert blocks[0].items[0].folder == tmp_path / "in" and os.getcwd() == "/"
    assert pickle.loads(pickle.dumps(blocks)) == blocks


# The folder of shards

RUN = {"model": "demo", "profile": {"name": "off"}}
FORM = format_named("jsonl")


def answers(*texts: str | None) -> list[Answer]:
    """Answers of these texts, None for an error."""
    problem = Problem("image_missing", "x")
    found = [Answer(Item(text or "bad", ("a.png",)), "demo", "off", text) for text in texts]
    return [one if one.text else replace(one, problem=problem) for one in found]


def write(shards: Shards, number: int, *texts: str | None) -> None:
    found = answers(*texts)
    shards.write(number, found, [FORM.record(one) for one in found])


def opened(folder: Path, run: dict[str, Any] = RUN, **options: Any) -> Shards:
    return Shards(folder, FORM, run, 2, **options)


def begun(folder: Path) -> None:
    """A folder with the shards 0 and 2, the second with an error."""
    shards = opened(folder)
    shards.confirm("float32, none")
    write(shards, 2, "c", None)
    write(shards, 0, "a", "b")
    shards.close(complete=False)


def test_a_folder_is_continued_with_the_shards_that_it_lacks(tmp_path: Path):
    out = tmp_path / "answers"
    begun(out)
    assert sorted(one.name for one in out.iterdir()) == [
        "_shards.jsonl",
        "part-000000.jsonl",
        "part-000002.jsonl",
    ]
    assert [row["answer"] for row in read_rows(out / "part-000002.jsonl")] == ["c", None]
    again = Shards(out, FORM, RUN, 99)
    assert (again.written, again.before, again.errors, again.shard_rows) == ({0, 2}, 4, 1, 2)
    write(again, 1, "d")
    again.confirm("float32, none")
    again.close(complete=True)
    assert opened(out).rows == 5


def test_shards_with_an_error_are_answered_again_where_that_is_asked_for(tmp_path: Path):
    begun(tmp_path / "a")
    opened(tmp_path / "a", retry=True).close(complete=False)
    again = opened(tmp_path / "a")  # the first try was stopped before it wrote a shard
    assert (again.written, again.before, again.errors) == ({0}, 2, 0)
    write(again, 2, "c", "longer than before")
    again.close(complete=False)
    assert opened(tmp_path / "a").written == {0, 2}


def test_a_shard_that_is_gone_or_was_cut_off_before_it_was_noted_is_answered_again(tmp_path: Path):
    out = tmp_path / "a"
    begun(out)
    (out / "part-000002.jsonl").unlink()
    with (out / "_shards.jsonl").open("ab") as file:
        file.write(b'{"number": 1, "rows"')  # as a kill leaves it
    again = opened(out)
    assert again.written == {0}
    write(again, 1, "d")
    again.close(complete=False)
    assert opened(out).written == {0, 1}


def test_what_sts_did_not_write_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file; with --ray, give a folder"):
        opened(tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(OutputError, match="holds notes.txt, and there is no mine.run"):
        opened(tmp_path / "mine")
    begun(tmp_path / "a")
    (tmp_path / "a" / "part-000000.jsonl").write_text("x")
    with pytest.raises(OutputError, match="part-000000.jsonl has changed since it was written"):
        opened(tmp_path / "a")


def test_another_run_is_refused_and_the_difference_named(tmp_path: Path):
    begun(tmp_path / "a")
    with pytest.raises(OutputError, match="answers of another profile: name 'off', not 'grid'"):
        opened(tmp_path / "a", {"model": "demo", "profile": {"name": "grid"}})
    again = opened(tmp_path / "a")  # the refusal left no lock behind
    with pytest.raises(OutputError, match="precision 'float32, none', not 'bfloat16, none'"):
        again.confirm("bfloat16, none")
    with pytest.raises(OutputError, match="Another run is writing"):
        opened(tmp_path / "a")
    again.close(complete=False)


def test_every_format_of_records_makes_whole_shards(tmp_path: Path):
    for name, ending in (("csv", ".csv"), ("vqav2", ".json"), ("llava", ".jsonl")):
        form, out = format_named(name), tmp_path / f"{name}{ending}"
        shards = Shards(out, form, RUN, 2)
        shards.write(0, found := answers("a", "b"), [form.record(one) for one in found])
        with (out / f"part-000000{ending}").open("rb") as file:
            assert len(list(form.read(file))) == 2
        shards.close(complete=False)


def test_shards_may_be_tables(tmp_path: Path):
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    from pyarrow import parquet

    form, out = format_named("parquet"), tmp_path / "answers.parquet"
    shards = Shards(out, form, RUN, 2)
    for number, texts in ((1, ("c",)), (0, ("a", None))):
        found = answers(*texts)
        shards.write(number, found, [form.record(one) for one in found])
    shards.confirm("float32, none")
    shards.close(complete=True)
    assert parquet.read_table(out)["answer"].to_pylist() == ["a", None, "c"]
    settings, rows = in_shards(out, form)
    assert settings is not None and settings["shards"] == 2
    assert list(rows) == [answer_row(one) for one in answers("a", None, "c")]


def test_a_dry_run_tells_the_pace_and_the_cost_of_a_folder(tmp_path: Path):
    """By the settings that the same command has; seconds are a row's own share."""
    questions, out = SAMPLES / "questions.jsonl", tmp_path / "a"
    asked = ("batch", questions, "--max-new-tokens", 1)
    assert sts(*asked, "--out", tmp_path / "one.jsonl", "--limit", 8).code == 0
    rows = read_rows(tmp_path / "one.jsonl")
    settings = json.loads((tmp_path / "one.jsonl.run").read_text())
    settings.pop("complete", None)
    shards = Shards(out, FORM, settings, 8)
    shards.confirm(settings["precision"])
    shards.write(0, [], [json.dumps(row).encode() + b"\n" for row in rows])
    shards.close(complete=False)
    pace = sum(row["seconds"]["total"] - row["seconds"]["image"] for row in rows) / 8
    for options in (("--out", out, "--ray", "local"), ("--out", tmp_path / "one.jsonl")):
        told = sts(*asked, *options, "--dry-run")
        assert f"for the 16 rows left, at the {pace:.3g} s a row" in told.out, told.err
        decoding = float(told.out.partition("decoding: ")[2].partition(" s")[0]) / 24
        hours = 1_000_000 * max(pace, decoding / 2) / 3600
        said = float(told.out.partition("rows take ")[2].partition(" hours")[0].replace(",", ""))
        assert said == pytest.approx(hours, rel=0.01)


# Nodes


def test_a_node_is_compared_with_the_machine_of_the_command():
    here = look("demo")
    assert here.problem is None and here.versions["sts"] == sts_cli.__version__
    compare("10.0.0.2", here, here)
    for other, said in (
        (Node({**here.versions, "sts": "9"}, here.files), "Node 10.0.0.2 has sts 9, and this"),
        (Node({**here.versions, "transformers": "9"}, here.files), "has transformers 9"),
        (Node(here.versions, {}, "No folder '/m'."), "cannot see the model: No folder '/m'. Put"),
        (Node(here.versions, {**here.files, "config.json": "x"}), "config.json differ"),
    ):
        with pytest.raises(ClusterError, match=said):
            compare("10.0.0.2", other, here)


# The model of an actor

EXACT = {"dtype": "float32", "backend": "torch"}


def test_an_actor_answers_a_block_as_a_batch_does(tmp_path: Path):
    items = list(open_inputs([str(SAMPLES / "questions.jsonl")]).items(3))
    items += [Item("gone", ("gone.png",), "?", SAMPLES)]
    plan = sts_cli.Profile("off", backend="torch")
    actor = BlockAnswerer(Setup("demo", "demo", Request((plan,)), "cpu", "float32", "jsonl"))
    found: Answered = actor.answered(Block(7, tuple(items)))
    wanted = sts_cli.load("demo", profile=plan, dtype="float32").batch(items)
    rows = [json.loads(record) for record in found.records]
    assert without_times(rows) == without_times([answer_row(one) for one in wanted])
    assert found.number == 7 and found.precision == "float32, none"
    assert [one.problem and one.problem.kind for one in found.answers] == [None] * 3 + [
        "image_missing"
    ]


def test_an_actor_whose_model_fails_says_why(tmp_path: Path):
    setup = Setup(str(tmp_path), "mine", Request((sts_cli.Profile("off"),)), "cpu", "auto", "jsonl")
    refused = BlockAnswerer(setup).answered(Block(0, ()))
    assert refused.refusal is not None and "config.json" in refused.refusal


def test_the_answerer_of_the_library_takes_columns_as_ray_hands_them_over():
    answerer = sts_cli.Answerer("demo", profile="aggressive", images=SAMPLES, **EXACT)
    batch = {
        "id": np.array([1, 2, 3]),
        "image": np.array(["sign.png", "gone.png", "sign.png"], dtype=object),
        "question": np.array(["what is on the sign?", "?", "what is on the sign?"], dtype=object),
    }
    found = answerer(batch)
    assert found["id"] == ["1", "2", "3"]
    assert found["answer"] == ["CAKE", None, "CAKE"]
    assert found["error"] == [None, "image_missing", None]
    picture = {"image": np.array([(SAMPLES / "sign.png").read_bytes()], dtype=object)}
    asked = {"question": np.array(["what is on the sign?"], dtype=object)}
    assert answerer({**picture, **asked})["answer"] == ["CAKE"]


def test_importing_the_library_imports_no_answerer():
    code = "import sys, sts_cli; print('sts_cli.cluster' in sys.modules, sts_cli.Answerer.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "Answerer"]


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--ray local", "--ray needs --out FOLDER"),
        ("--ray local --out a --html r.html", "--html does not go with --ray"),
        ("--ray local --out a --overlay o", "--overlay does not go with --ray"),
        ("--ray local --out a --sidecar", "--sidecar does not go with --ray"),
        ("--ray local --out a --fresh", "--fresh does not go with --ray"),
        ("--ray local --out a --on-error stop", "--on-error stop does not go with --ray"),
        ("--ray local --out a --device cuda:1", "--device cuda:1 does not go with --ray"),
        ("--ray local --out a.txt", "--out a.txt: the name must end in"),
        ("--ray ray://head:10001 --out a", "a Ray client is no machine of the cluster"),
        ("--ray 10.0.0.1 --out a", "--ray 10.0.0.1: give auto, local, or HOST:PORT"),
        ("--ray nonsense --out a", "--ray nonsense: give auto, local, or HOST:PORT"),
        ("--ray-actors 2", "--ray-actors needs --ray"),
        ("--ray-gpus 1", "--ray-gpus needs --ray"),
        ("- --ray --out a", "--ray reads its input again where it needs it"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: str, said: str, tmp_path: Path):
    done = sts("batch", SAMPLES / "questions.jsonl", *options.split())
    assert (done.code, done.out) == (2, "") and said in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("given", ["gone.jsonl", "10.0.0.1", ""])
def test_what_follows_ray_is_an_address_or_an_input_that_is_there(given: str):
    done = sts("batch", "--ray", given, "--out", "a")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"sts: --ray {given}: give auto, local, or HOST:PORT")
    assert sts("batch", "--ray", given, "--help").code == 0
    for there in (str(SAMPLES), str(SAMPLES / "*.jsonl"), "--quiet"):
        assert list(with_address(["--ray", there])) == ["--ray", "auto", there]


@pytest.mark.parametrize("lacking", ["ray", "pyarrow"])
def test_without_ray_one_sentence_says_what_to_install(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, lacking, None)  # as Python has it where it is not installed
    done = sts("batch", SAMPLES / "questions.jsonl", "--ray", "--out", tmp_path / "a")
    assert done.code == 2 and not (tmp_path / "a").exists()
    assert done.err == f"sts: --ray needs Ray; run: {to_install('ray[data]>=2.60,<2.64')}\n"


# Images on an object store


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """A server that speaks S3, in a process of its own; its address."""
    pytest.importorskip("pyarrow", reason="needs the extra ray")
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    one = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    one.start()
    host, port = one.get_host_and_port()
    yield f"http://{host}:{port}"
    one.stop()


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples in a bucket, and an environment that leads there."""
    for name, value in (
        ("AWS_ENDPOINT_URL", store),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    from pyarrow import fs

    there = fs.S3FileSystem(
        endpoint_override=store.removeprefix("http://"), scheme="http", allow_bucket_creation=True
    )
    there.create_dir("photos")
    sign = (SAMPLES / "sign.png").read_bytes()
    for name, content in (("a b/sign.png", sign), ("empty.png", b"")):
        with there.open_output_stream(f"photos/{name}") as file:
            file.write(content)


def test_rows_may_name_images_on_an_object_store(bucket: None, tmp_path: Path):
    names = ["s3://photos/a b/sign.png", "s3://photos/gone.png", "s3://photos/empty.png"]
    place = tmp_path / "q.jsonl"
    place.write_text("".join(json.dumps({"image": name, "question": "?"}) + "\n" for name in names))
    found = [prepare(item) for item in open_inputs([str(place)], remote=True).items()]
    local = prepare(Item("1", ("sign.png",), "?", SAMPLES))
    assert found[0].digests == local.digests and found[0].item.labels == (names[0],)
    problems = [one.item.problem for one in found[1:]]
    assert [one and one.kind for one in problems] == ["image_missing", "image_unreadable"]


def test_one_machine_keeps_to_its_own_files(bucket: None, tmp_path: Path):
    place = tmp_path / "q.jsonl"
    place.write_text('{"image": "s3://photos/a b/sign.png", "question": "?"}\n')
    (item,) = open_inputs([str(place)]).items()
    assert item.problem is not None and "is a web address" in item.problem.message
