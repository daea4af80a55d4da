"""The speed report of one answer, alone or beside the unpruned one."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from sts_cli.records import Answer
from sts_cli.report.console import counts, milliseconds


def speed(answer: Answer) -> str:
    """Tokens and phases of one answer, two short lines."""
    assert answer.tokens is not None and answer.seconds is not None
    tokens, seconds = answer.tokens, answer.seconds
    phases = ", ".join(
        f"{name} {milliseconds(getattr(seconds, name))}"
        for name in ("image", "encode", "select", "prefill", "decode")
    )
    asked = f"{answer.escalated}, then " if answer.escalated else ""
    return (
        f"{asked}{answer.profile}: visual tokens {counts(tokens)} (average {tokens.average:.1f}), "
        f"text {tokens.text}, generated {tokens.generated}\n"
        f"{milliseconds(seconds.total)}: {phases}"
    )


def side_by_side(console: Console, answer: Answer) -> None:
    """The pruned and the unpruned answer in two columns, agreement and speed-up below."""
    assert answer.comparison is not None
    versus = answer.comparison
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    pair = (answer, versus.full)
    for side in pair:
        table.add_column(side.profile, overflow="fold")
    table.add_row("answer", *(side.text or "" for side in pair))
    table.add_row("visual tokens", *(counts(side.tokens) for side in pair if side.tokens))
    table.add_row("average", *(f"{side.tokens.average:.1f}" for side in pair if side.tokens))
    for name in ("image", "encode", "select", "prefill", "decode", "first_token", "total"):
        cells = (milliseconds(getattr(side.seconds, name)) for side in pair if side.seconds)
        table.add_row(name.replace("_", " "), *cells)
    console.print(table)
    verdict = "agree" if versus.agree else f"differ (token F1 {versus.similarity:.2f})"
    console.print(
        f"the answers {verdict}; speed-up: prefill x{versus.speedup_prefill:.2f}, "
        f"total x{versus.speedup_total:.2f}"
    )
