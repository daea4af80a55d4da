"""What people read on standard error: whole outputs, at 80 columns, under a clock of our own."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from sts_cli.profile import Escalate, Profile
from sts_cli.records import Answer, Certainty, Comparison, Item, Problem, Seconds, TokenCounts
from sts_cli.report.console import Report, Screen, line, milliseconds
from sts_cli.report.single import side_by_side, speed

SECONDS = Seconds(0.004, 0.021, 0.001, 0.011, 0.006, 0.038, 0.044)
ANSWER = Answer(
    Item("7", ("street.png",), "what is on the sign?"),
    "demo",
    "aggressive",
    text="OPEN",
    tokens=TokenCounts(576, (96, 32), 64.0, 21, 3),
    seconds=SECONDS,
    finish="stop",
)
FULL = replace(
    ANSWER,
    profile="off",
    tokens=TokenCounts(576, (), 576.0, 21, 3),
    seconds=replace(SECONDS, prefill=0.055, total=0.088),
)
COMPARED = replace(ANSWER, comparison=Comparison(FULL, True, 1.0, 5.0, 2.0))
FAILED = Answer(
    Item("8", ("gone.png",), "?"),
    "demo",
    "aggressive",
    problem=Problem("image_missing", "No image gone.png."),
)


def console() -> Console:
    return Screen(file=io.StringIO(), width=80, soft_wrap=True)


def told(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return "\n".join(one.rstrip() for one in screen.file.getvalue().splitlines())


def test_a_run_is_a_line_for_each_item_and_a_summary():
    screen, now = console(), [0.0]
    report = Report(screen, None, clock=lambda: now[0])
    now[0] = 60.0  # loading took a minute, which is no part of the rate
    with report:
        now[0] = 64.0
        for answer in (ANSWER, FAILED, replace(ANSWER, text="a\nlong " + "word " * 30)):
            report.item(answer)
    report.summary(["3 answered before"])
    assert told(screen) == (
        "7  576 -> 96 -> 32  44 ms  OPEN\n"
        "x 8  image_missing: No image gone.png.\n"
        "7  576 -> 96 -> 32  44 ms  a long word word word word word word word word word …\n"
        "2 answered; 1 with errors (1 image_missing); 4.0 s, 0.75 items/s; 3 answered before\n"
        "time: p50 44 ms, p95 44 ms; visual tokens kept: 64.0 on average (11.1%)"
    )


def test_a_comparison_is_summed_up():
    screen, now = console(), [0.0]
    report = Report(screen, None, clock=lambda: now[0])
    apart = Comparison(replace(FULL, text="OPEN NOW"), False, 0.67, 4.0, 1.0)
    with report:
        now[0] = 1.0
        report.item(COMPARED)
        assert ANSWER.seconds is not None
        other = replace(ANSWER.seconds, prefill=0.02)  # of another batch
        report.item(replace(ANSWER, seconds=other, comparison=apart))
        report.item(COMPARED)  # of the first batch again
    report.summary()
    assert told(screen).splitlines() == [
        "7  576 -> 96 -> 32  44 ms  x2.00 = OPEN",
        "7  576 -> 96 -> 32  44 ms  x1.00 OPEN (off: OPEN NOW)",
        "7  576 -> 96 -> 32  44 ms  x2.00 = OPEN",
        "3 answered; 1.0 s, 3.00 items/s",
        "time: p50 44 ms, p95 44 ms; visual tokens kept: 64.0 on average (11.1%)",
        "against no pruning: 2 of 3 answers agree (66.7%)",
        "speed-up, median of 2 batches (range): prefill x4.50 (4.00 to 5.00), "
        "total x1.50 (1.00 to 2.00)",
    ]
    assert report.agreement == 2 / 3


def test_a_log_gets_the_time_left_now_and_then():
    screen, now = console(), [0.0]
    report = Report(screen, 10, lines=False, clock=lambda: now[0])
    with report:
        for now[0] in (10.0, 31.0, 40.0, 62.0):
            report.item(ANSWER)
    assert told(screen).splitlines() == [
        "2 of 10 rows, 0.06/s, about 2 min left",
        "4 of 10 rows, 0.06/s, about 93 s left",
    ]


@pytest.mark.parametrize(("progress", "quiet"), [("none", False), ("bar", False), ("lines", True)])
def test_no_time_left_is_told_to_others(progress: str, quiet: bool):
    screen, now = console(), [0.0]
    report = Report(screen, 10, lines=False, progress=progress, quiet=quiet, clock=lambda: now[0])
    with report:
        now[0] = 100.0
        report.item(ANSWER)
    assert "rows," not in told(screen)


def test_the_time_left_is_not_told_where_nobody_knows_the_rows():
    screen, now = console(), [0.0]
    report = Report(screen, None, lines=False, clock=lambda: now[0])
    with report:
        now[0] = 100.0
        report.item(ANSWER)
    assert told(screen) == "1 rows, 0.01/s"


def test_a_cascade_says_how_many_were_asked_again():
    screen = console()
    steps = Escalate(0.9, Profile("off"), at_most=0.5)
    report = Report(screen, None, escalate=steps, lines=False, clock=lambda: 0.0)
    high, low = Certainty(0.95, 0.5), Certainty(0.5, 0.5)
    again = replace(ANSWER, profile="balanced", escalated="rising", certainty=low)
    with report:
        report.item(replace(ANSWER, certainty=high))
        report.item(FAILED)
        report.item(again)
        report.item(replace(ANSWER, certainty=low))
    report.summary()
    assert told(screen).splitlines()[-1] == (
        "escalated: 1 of 3 (33.3%) to balanced; 1 more are not certain"
    )
    with report:
        report.item(again)
        report.item(replace(again, profile="off"))
    report.summary()
    assert "\nescalated: 3 of 5 (60.0%), 2 to balanced, 1 to off; 1 more" in told(screen)
    assert speed(again).startswith("rising, then balanced: visual tokens 576 -> 96 -> 32")


def test_quiet_says_nothing():
    screen = console()
    report = Report(screen, None, quiet=True)
    with report:
        report.item(FAILED)
    report.summary()
    assert told(screen) == "" and report.errors.total() == 1


def test_brackets_in_answers_are_no_markup():
    screen = console()
    with Report(screen, None) as report:
        report.item(replace(ANSWER, text="[red]x[/red] [/]"))
    assert told(screen).endswith("[red]x[/red] [/]")


def test_brackets_and_colons_in_answers_side_by_side_are_text():
    screen = console()
    side_by_side(screen, replace(COMPARED, text="[red]x[/red] [/] :smile:"))
    assert "[red]x[/red] [/] :smile:" in told(screen)


def test_an_item_is_one_line_whatever_it_holds():
    screen = console()
    item = Item("7\n8  forged", ("street.png",), "what?")
    apart = Comparison(replace(FULL, text="two\nlines"), False, 0.67, 4.0, 1.0)
    with Report(screen, None) as report:
        report.item(replace(COMPARED, item=item, comparison=apart, text="OP\x07EN"))
        report.item(replace(FAILED, item=item, problem=Problem("internal", "a\r\nb\tc")))
    first, second = told(screen).splitlines()
    assert first.startswith("7\\n8  forged  ") and "OP\\x07EN (off: two lines)" in first
    assert second == r"x 7\n8  forged  internal: a\x0d\nb\tc"


def test_a_run_with_nothing_left_to_do_tells_no_speed():
    screen = console()
    with Report(screen, 3) as report:
        pass
    report.summary(["3 answered before"])
    assert told(screen) == "0 answered; 3 answered before"


def test_long_answers_that_differ_are_both_seen_where_they_differ():
    ours, full = "a sign that says TAXI, a ring and a heart", "a sign that says TAXI, a star"
    differing = Comparison(replace(FULL, text=full), False, 0.6, 4.0, 1.0)
    shown = line(replace(COMPARED, text=ours, comparison=differing), 80)
    assert shown.plain.endswith("x1.00 …ring and a heart (off: …star)")
    narrow = line(replace(COMPARED, text=ours, comparison=differing), 60)
    assert narrow.plain.endswith("x1.00 …ring an… (off: …star)") and narrow.cell_len <= 60
    wide = line(replace(COMPARED, text=ours, comparison=differing), 200)
    assert wide.plain.endswith(f"{ours} (off: {full})")


def test_a_long_error_is_cut_on_a_terminal_and_whole_in_a_log():
    long = replace(FAILED, problem=Problem("image_missing", "No image " + "a" * 100))
    assert len(line(long, 80)) == 80
    screen = console()
    with Report(screen, None) as report:
        report.item(long)
    assert "a" * 100 in told(screen)


def test_one_answer_is_told_in_two_lines_of_80_columns():
    text = speed(ANSWER)
    assert text == (
        "aggressive: visual tokens 576 -> 96 -> 32 (average 64.0), text 21, generated 3\n"
        "44 ms: image 4 ms, encode 21 ms, select 1 ms, prefill 11 ms, decode 6 ms"
    )
    assert max(map(len, text.splitlines())) <= 80


def test_two_answers_stand_side_by_side():
    screen = console()
    side_by_side(screen, COMPARED)
    assert told(screen).splitlines() == [
        "               aggressive       off",
        "answer         OPEN             OPEN",
        "visual tokens  576 -> 96 -> 32  576",
        "average        64.0             576.0",
        "image          4 ms             4 ms",
        "encode         21 ms            21 ms",
        "select         1 ms             1 ms",
        "prefill        11 ms            55 ms",
        "decode         6 ms             6 ms",
        "first token    38 ms            38 ms",
        "total          44 ms            88 ms",
        "the answers agree; speed-up: prefill x5.00, total x2.00",
    ]


def test_times_have_the_unit_that_fits():
    assert [milliseconds(s) for s in (0.0004, 0.044, 9.9, 12.34)] == [
        "0 ms",
        "44 ms",
        "9900 ms",
        "12.3 s",
    ]
