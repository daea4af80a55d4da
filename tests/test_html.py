"""The report of a run, as its reader sees it in a browser."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, WHY, Browser, browser
from PIL import Image
from running import no_waiting_for_the_disk, read_rows, sts
from tokenizers import Regex, Tokenizer, decoders

from sts_cli.cli.eval_page import EvalPage
from sts_cli.cli.page import BatchPage
from sts_cli.evaluation.conditions import Condition
from sts_cli.evaluation.table import Results
from sts_cli.inputs.images import Prepared
from sts_cli.inputs.items import Input
from sts_cli.machine.packages import to_install
from sts_cli.outputs.formats import format_named
from sts_cli.outputs.stream import Nowhere
from sts_cli.profile_files import load_profile
from sts_cli.records import Answer, Comparison, Item, KeptTokens, Problem, Seconds, TokenCounts
from sts_cli.report.evaluation import write_evaluation
from sts_cli.report.html import Page, thumbnail
from sts_cli.report.overlay import CUT_LATER, DROPPED
from sts_cli.report.visible import visible

__all__ = ["no_waiting_for_the_disk"]

SHORT = ("--max-new-tokens", "2", "-q")
EVIL = "</script><script>window.owned = 1</script><img src=x onerror='window.owned = 2'>&amp;{{1}}"
SECONDS = Seconds(0.004, 0.021, 0.001, 0.011, 0.006, 0.038, 0.044)
EVERY = tuple(((row + 0.5) / 2, (column + 0.5) / 4) for row in range(2) for column in range(4))
KEPT = KeptTokens(EVERY, (EVERY[2:7], EVERY[4:6]))
COUNT = "document.getElementById('count').textContent"
IDS = "[...document.querySelectorAll('main .id')].map((one) => one.textContent)"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(WHY)
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@pytest.fixture
def chrome(chromium: Browser) -> Browser:
    chromium.look()
    return chromium


def answered(number: int) -> Answer:
    """Every tenth row is an error, every tenth differs; the rest agree."""
    item = Item(
        str(number), (f"{number}.png",), f"question {number}?", extra={"kind": "ab"[number % 2]}
    )
    if number % 10 == 9:
        problem = Problem("image_missing", f"No image {number}.png.")
        return Answer(replace(item, problem=problem), "demo", "aggressive", problem=problem)
    tokens = TokenCounts(8, (5, 2), 3.5, 9, 3)
    text = f"answer {number}"
    # Of four rows a batch; the total has what reading the row's own image took
    seconds = replace(SECONDS, prefill=SECONDS.prefill + number // 4 / 1000)
    seconds = replace(seconds, total=seconds.total + number % 4 / 1000)
    one = Answer(
        item, "demo", "aggressive", text=text, tokens=tokens, seconds=seconds, kept=(KEPT,)
    )
    agree = number % 10 != 7
    full = replace(one, profile="off", text=text if agree else "another")
    speedup = 2 + number // 4 / 100
    return replace(
        one, comparison=Comparison(full, agree, 1.0, speedup, speedup / (2 + number % 4))
    )


def report(path: Path, answers: Sequence[Answer], whole: bool = True) -> Path:
    """The report of these answers."""
    rows = Input("q.jsonl", path, "stdin", lambda: iter(()))
    page = BatchPage(path, rows, path.parent, "model demo")
    form = format_named("jsonl")
    items = [
        Prepared(answer.item, (), (), 0.0)
        if answer.problem
        else Prepared(answer.item, (picture(n),), (str(n),), 0.0)
        for n, answer in enumerate(answers)
    ]
    list(page.seen(items))  # all are read before the first answer
    for answer in answers:
        page.add(answer, form.key(answer.item))
    page.write(Nowhere(form), whole)
    return path


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (32, 16), (number % 256, number // 256, 0))


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 40 rows: 4 differ, 4 are errors."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    return report(path, [answered(number) for number in range(40)])


def test_the_rows_of_one_batch_are_one_speed_up(forty: Path, chrome: Browser):
    chrome.open(forty)
    assert "median of 10 batches" in chrome.run("document.body.textContent")


def test_every_row_is_there_and_those_that_differ_come_first(forty: Path, chrome: Browser):
    chrome.open(forty)
    assert chrome.run(COUNT) == "40 of 40 rows"
    differ, errors = ["7", "17", "27", "37"], ["9", "19", "29", "39"]
    rest = [str(n) for n in range(40) if n % 10 not in (7, 9)]
    assert chrome.run(IDS) == [*differ, *errors, *rest]
    text = chrome.run("document.querySelector('main article').innerText")
    assert "answer 7" in text and "another" in text and "8 -> 5 -> 2" in text
    tiles = chrome.run("document.querySelector('.tiles').innerText")
    assert "36" in tiles and "88.9%" in tiles and "4 image_missing" in tiles
    assert chrome.run("document.querySelectorAll('figure svg .histbar').length") >= 4


def test_the_page_loads_nothing_and_breaks_no_rule(forty: Path, chrome: Browser):
    chrome.open(forty)
    for key in "jjjot":
        chrome.press(key)
    chrome.press("Enter")
    chrome.run("1")
    assert chrome.addresses() == {forty.resolve().as_uri()}
    assert chrome.complaints() == []


def test_search_and_filters_leave_what_matches(forty: Path, chrome: Browser):
    chrome.open(forty)
    chrome.press("/")
    for key in "answer 3":
        chrome.press(key)
    assert chrome.run(IDS) == [
        "37",
        "3",
        "13",
        "23",
        "30",
        "31",
        "32",
        "33",
        "34",
        "35",
        "36",
        "38",
    ]
    chrome.press("Escape")
    chrome.run("document.querySelector('[data-show=differs]').click()")
    assert chrome.run(IDS) == ["37"]
    chrome.open(forty, "#show=errors")
    assert chrome.run(IDS) == ["9", "19", "29", "39"]
    chrome.open(forty, "#kind=a&q=question+1")
    assert chrome.run(IDS) == ["10", "12", "14", "16", "18"]
    assert chrome.run(COUNT) == "5 of 40 rows"


def test_keys_move_enlarge_and_come_back(forty: Path, chrome: Browser):
    chrome.open(forty)
    chrome.press("j")
    chrome.press("j")
    assert chrome.run("document.querySelector('.on .id').textContent") == "17"
    chrome.press("Enter")
    large = "document.querySelector('dialog[open]')?.innerText ?? ''"
    assert "question 17?" in chrome.run(large)
    chrome.press("k")
    assert "question 7?" in chrome.run(large) and "question 17?" not in chrome.run(large)
    chrome.press("Escape")
    assert chrome.run(large) == ""


def test_dark_and_light_follow_the_system_until_the_reader_says_otherwise(
    forty: Path, chrome: Browser
):
    paper = "getComputedStyle(document.body).backgroundColor"
    chrome.open(forty)
    light = chrome.run(paper)
    chrome.look(dark=True)
    dark = chrome.run(paper)
    assert dark != light
    chrome.press("t")
    assert chrome.run(paper) == light


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(width: int, forty: Path, chrome: Browser):
    chrome.look(width=width)
    chrome.open(forty)
    assert chrome.run("document.documentElement.scrollWidth") <= width
    for key in ("j", "Enter"):
        chrome.press(key)
    assert chrome.run("document.querySelector('dialog').getBoundingClientRect().width") <= width


def test_the_overlay_is_drawn_from_the_kept_cells(forty: Path, chrome: Browser):
    """Opacity of the veil in the middle of each cell, as overlay.py has it."""
    chrome.open(forty)
    found = chrome.run(
        """(async () => {
          const image = document.querySelector('main img');
          await image.decode();
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          const canvas = image.parentElement.querySelector('canvas'), found = [];
          const pen = canvas.getContext('2d');
          for (let row = 0; row < 2; row++)
            for (let column = 0; column < 4; column++) {
              const [x, y] = [(column + 0.5) / 4 * canvas.width, (row + 0.5) / 2 * canvas.height];
              found.push(pen.getImageData(x, y, 1, 1).data[3] / 255);
            }
          return found;
        })()"""
    )
    level = [0, 0, 1, 1, 2, 2, 1, 0]
    assert found == pytest.approx([(DROPPED, CUT_LATER, 0)[n] for n in level], abs=0.01)
    chrome.press("o")
    hidden = "getComputedStyle(document.querySelector('main canvas')).display"
    assert chrome.run(hidden) == "none"


def test_ten_thousand_rows_are_all_there_and_few_are_drawn(tmp_path: Path, chrome: Browser):
    answers = [answered(number) for number in range(10_000)]
    chrome.open(report(tmp_path / "report.html", answers))
    assert chrome.run(COUNT) == "10,000 of 10,000 rows"
    assert chrome.run("document.querySelectorAll('main article').length") < 200
    assert chrome.run(IDS)[:2] == ["7", "17"]
    chrome.run("window.scrollTo(0, document.body.scrollHeight)")
    chrome.until("document.querySelectorAll('main article').length > 100")
    assert chrome.run(IDS)[100] == "1007"
    chrome.open(tmp_path / "report.html", "#q=question+9998%3F")
    assert chrome.run(IDS) == ["9998"]
    assert chrome.run("document.querySelector('main img').decode().then(() => true)")


def test_a_run_that_was_stopped_says_so(tmp_path: Path, chrome: Browser):
    answers = [answered(number) for number in range(3)]
    chrome.open(report(tmp_path / "report.html", answers, whole=False))
    assert "was stopped" in chrome.run("document.body.innerText")


def test_rows_find_their_thumbnails_though_a_stopped_run_leaves_gaps(tmp_path: Path):
    answers = [answered(number) for number in range(5)]
    rows = Input("-", tmp_path, "stdin", lambda: iter(()))
    page = BatchPage(tmp_path / "report.html", rows, tmp_path, "")
    made = [Prepared(one.item, (picture(n),), (str(n),), 0.0) for n, one in enumerate(answers)]
    list(page.seen(made))
    for number in (0, 3, 4):
        page.add(answers[number], number)
    page.write(Nowhere(format_named("jsonl")), whole=False)
    assert [row["pictures"] for row in data_of(tmp_path / "report.html")["rows"]] == [[0], [3], [4]]


def data_of(page: Path) -> dict[str, Any]:
    """The rows in a report."""
    text = page.read_text("utf-8")
    found = text.partition('id="data">')[2].partition("</script>")[0]
    data: dict[str, Any] = json.loads(found)
    return data


@pytest.fixture
def place(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two pictures and four questions; one picture is missing."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (50, 40), colour).save(f"{number}.png")
    write_questions(Path("q.jsonl"), "0", "1", "gone", "1")
    return tmp_path


def write_questions(path: Path, *names: str, question: str = "what") -> None:
    rows = (
        {"id": f"i{n}", "image": f"{name}.png", "question": f"{question} {n}?"}
        for n, name in enumerate(names)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_foreign_text_stays_text(
    place: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, chrome: Browser
):
    """In ids, questions, answers, errors, kinds, file names and the title."""
    folder = place / "model"
    shutil.copytree(tiny_checkpoint, folder)
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens.decoder = decoders.Sequence([decoders.Replace(Regex(".+"), EVIL), decoders.Fuse()])
    tokens.save(str(folder / "tokenizer.json"))
    monkeypatch.setenv("STS_MODEL", str(folder))
    rows = [
        {"id": EVIL, "image": name, "question": EVIL, "answer": EVIL, "kind": f"{n}{EVIL}"}
        for n, name in enumerate(("0.png", f"gone{EVIL.replace('/', '')}"))
    ]
    asked = f"{EVIL.replace('/', '')}.jsonl"
    Path(asked).write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = sts("batch", asked, "--html", "report.html", "--out", "o.jsonl", "--compare", *SHORT)
    assert done.code == 1, done.err
    chrome.open(place / "report.html")
    for key in ("j", "j", "Enter"):
        chrome.press(key)
    assert chrome.run("window.owned ?? null") is None
    assert chrome.complaints() == []
    assert chrome.run(COUNT) == "2 of 2 rows"
    assert chrome.run("document.querySelectorAll('body img').length") == 1 + 2
    text = chrome.run("[...document.querySelectorAll('main article')].at(-1).textContent")
    assert text.count(EVIL) >= 3 + 2
    assert EVIL in chrome.run("document.querySelector('main .question').textContent")
    assert EVIL.replace("/", "") in chrome.run("document.title")


def test_the_policy_stops_a_script_that_is_not_the_reports_own(forty: Path, chrome: Browser):
    chrome.open(forty)
    chrome.run(
        "(() => { const one = document.createElement('script'); one.textContent = "
        "'window.owned = 1'; document.body.append(one); })()"
    )
    assert chrome.run("window.owned ?? null") is None
    assert "Content Security Policy" in "".join(chrome.complaints())


FORMATS = {
    "jsonl": ("o.jsonl",),
    "csv": ("o.csv",),
    "llava": ("o.jsonl", "--format", "llava"),
    "openai-batch": ("o.jsonl", "--format", "openai-batch"),
    "vqav2": ("o.json", "--format", "vqav2"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_an_earlier_run_are_in_the_report_too(name: str, place: Path):
    asked = ("batch", "q.jsonl", "--compare", *SHORT, "--html", "report.html", "--out")
    whole = [*asked, *FORMATS[name]]
    assert sts(*whole, "--limit", 3).code == 1
    first = data_of(Path("report.html"))["rows"]
    assert sts(*whole).code == 1
    rows = data_of(Path("report.html"))["rows"]
    assert [row["id"] for row in rows] == ["i0", "i1", "i2", "i3"]
    assert [row["earlier"] for row in rows] == [True, True, False, False]
    assert [len(row["cells"]) for row in rows] == [0, 0, 0, 1]
    assert [(row["error"] or "").partition(":")[0] for row in rows] == ["", "", "image_missing", ""]
    texts = [[one["text"] for one in row["answers"]] for row in rows]
    assert [texts[n][0] for n in (0, 1)] == [first[n]["answers"][0]["text"] for n in (0, 1)]
    known = name != "vqav2"  # which holds ids and answers only
    assert [len(row["pictures"]) for row in rows] == [known, known, 0, 1]
    same = ("question", "answers", "images", "facts", "differs")
    then, now = ([{key: row[key] for key in same} for row in some] for some in (first, rows))
    assert (then[:3] == now[:3]) is known
    assert "2 rows were answered by an earlier run" in Path("report.html").read_text("utf-8")


def test_a_run_that_is_complete_makes_its_report_from_the_answers(place: Path):
    asked = ("batch", "q.jsonl", "--out", "o.jsonl", *SHORT)
    assert sts(*asked).code == 1
    assert sts(*asked, "--html", "new/report.html").code == 1
    rows = data_of(Path("new/report.html"))["rows"]
    answers = [visible(row["answer"] or "") for row in read_rows(Path("o.jsonl"))]
    assert ["".join(one["text"] for one in row["answers"]) for row in rows] == answers
    assert [len(row["pictures"]) for row in rows] == [1, 1, 0, 1]


def test_standard_input_and_standard_output_have_a_report(place: Path):
    lines = Path("q.jsonl").read_bytes()
    done = sts("batch", "-", "--html", "report.html", *SHORT, stdin=lines)
    assert done.code == 1 and len(done.rows) == 4
    assert [row["id"] for row in data_of(Path("report.html"))["rows"]] == [
        r["id"] for r in done.rows
    ]


def refused(*arguments: object, because: str) -> None:
    done = sts("batch", "q.jsonl", *arguments, *SHORT)
    assert done.code == 2 and because in done.err and done.err.count("\n") == 1, done.err


def test_a_report_replaces_reports_only(place: Path):
    Path("mine.html").write_text("<p>my page")
    refused("--html", "mine.html", because="is no report of sts")
    refused("--html", "report.txt", because="must end in .html")
    Path("folder.html").mkdir()
    refused("--html", "folder.html", because="is a folder")
    assert Path("mine.html").read_text() == "<p>my page"
    for _ in range(2):
        assert sts("batch", "q.jsonl", "--html", "report.html", *SHORT).code == 1
    assert sorted(path.name for path in place.iterdir() if path.name.startswith(".sts")) == []


def test_without_the_libraries_a_sentence_says_what_to_install(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pygal", None)  # as Python has it where it is not installed
    command = to_install("jinja2>=3.1", "pygal>=3.1")
    refused("--html", "report.html", because=f"needs pygal; run: {command}")


def test_thumbnails_are_small_and_made_once(tmp_path: Path):
    page = Page(tmp_path, side=64)
    image = Image.effect_noise((640, 320), 60)
    assert [page.picture(digest, image) for digest in "aba"] == [0, 1, 0]
    assert len(thumbnail(image, 64)) < 3000
    with Image.open(io.BytesIO(thumbnail(image, 64))) as small:
        assert (small.format, small.size, small.mode) == ("JPEG", (64, 32), "RGB")


CONDITIONS = [
    {
        "name": name,
        "kind": kind,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.1,
        "accuracy_high": accuracy + 0.1,
        "agreement": accuracy,
        "tokens": 64.0,
        "prefill": 2.0,
        "speedup": speedup,
        "speedup_low": 0.9,
        "speedup_high": 2.1,
        "p": None,
    }
    for name, kind, accuracy, speedup in (
        ("off", "profile", 0.8, 1.0),
        (EVIL, "profile", 0.7, 2.0),
        ("no image", "control", 0.2, None),
    )
]


def evaluated(path: Path, known: Callable[[int], bool]) -> Path:
    names = [one["name"] for one in CONDITIONS]
    page = Page(path.parent)
    for n in range(12):
        page.row(
            id=str(n),
            pictures=[page.picture(str(n), picture(n))],
            question=f"question {n}?",
            expected=["CAKE"],
            kind="text",
            answers=[
                {
                    "name": name,
                    "text": "CAKE" if n % 4 else f"{name}",
                    "right": bool(n % 4 or name == "off") if known(n) else None,
                }
                for name in names
            ],
            differs=n % 4 == 0,
        )
    with path.open("wb") as file:
        write_evaluation(file, page, CONDITIONS, subtitle="model demo")
    page.close()
    return path


def test_an_evaluation_shows_accuracy_against_speed(tmp_path: Path, chrome: Browser):
    chrome.open(evaluated(tmp_path / "eval.html", lambda n: True))
    assert chrome.run("document.querySelectorAll('figure svg .legend').length") == 2
    table = chrome.run("document.querySelector('table').innerText")
    assert "80.0 (70.0 to 90.0)" in table and EVIL in table and "no image" in table
    assert chrome.run(IDS)[:4] == ["0", "4", "8", "1"]
    assert chrome.run("document.querySelectorAll('main article:first-child .wrong').length") == 2
    chrome.open(tmp_path / "eval.html", "#show=wrong")
    assert chrome.run(COUNT) == "3 of 12 rows"
    assert chrome.complaints() == [] and chrome.run("window.owned ?? null") is None


def test_an_evaluation_draws_what_the_first_failing_profile_kept(tmp_path: Path, chrome: Browser):
    names = ("off", "gentle", "aggressive", "extreme")
    conditions = [Condition(load_profile(name)) for name in names]
    page = EvalPage(tmp_path / "eval.html", "exact", conditions)
    results = Results(conditions, "exact")
    item = Item("1", ("1.png",), "what?", answers=("CAKE",))
    whole = replace(answered(0), comparison=None, kept=(KeptTokens(EVERY, ()),))
    pruned, more = replace(whole, kept=(KEPT,)), replace(whole, kept=(KeptTokens(EVERY, ()),))
    for number, texts in enumerate((("CAKE",) * 4, ("CAKE", "CAKE", "CARE", "CART"))):
        list(page.seen([Prepared(item, (picture(number),), (str(number),), 0.0)]))
        found = [
            replace(one, item=replace(item, id=str(number)), profile=name, text=text)
            for one, name, text in zip((whole, more, pruned, more), names, texts, strict=True)
        ]
        page.add(found)
        results.add(found)
    page.write(results.figures(), "model demo")
    chrome.open(tmp_path / "eval.html")
    assert chrome.run(IDS) == ["1", "0"]
    assert chrome.run("document.querySelectorAll('main canvas').length") == 1
    first = chrome.run("document.querySelector('main article').innerText")
    assert "answers differ" in first and "kept by aggressive: 8 -> 5 -> 2 visual tokens" in first
    chrome.press("j")
    chrome.press("Enter")
    pictures = "[...document.querySelectorAll('dialog .picture')]"
    drawn = f"{pictures}.map((one) => one.querySelectorAll('canvas').length)"
    assert chrome.run(drawn) == [0, 1]  # the image, and beside it what was kept
    assert chrome.complaints() == []


def test_without_a_truth_agreement_and_unequal_texts_count(tmp_path: Path, chrome: Browser):
    for one in CONDITIONS:
        one["accuracy"] = None
    chrome.open(evaluated(tmp_path / "eval.html", lambda n: False))
    assert "Agreement against speed" in chrome.run("document.querySelector('figure').innerText")
    assert chrome.run(IDS)[:4] == ["0", "4", "8", "1"]
    assert chrome.run("document.querySelector('[data-show=wrong]')") is None
