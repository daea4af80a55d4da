"""sts batch --dry-run: everything but the model."""

from __future__ import annotations

from collections import Counter

from sts_cli.cli.parsing import LAYERS, VISUAL
from sts_cli.inputs.items import Input
from sts_cli.profile import Profile
from sts_cli.records import Problem

SHOWN = 50  # bad rows of which each is printed


def dry_run(rows: Input, profile: Profile, limit: int | None, part: tuple[int, int]) -> int:
    """Read every row and decode every image; print what a run would meet. The exit code."""
    from sts_cli.inputs.images import decode_ahead

    bad: Counter[str] = Counter()
    ids: Counter[int] = Counter()
    formats: Counter[str] = Counter()
    digests: set[int] = set()
    images = questions = 0
    seconds = 0.0
    for ready in decode_ahead(rows.items(limit, part)):
        ids[hash(ready.item.id)] += 1
        seconds += ready.seconds
        if ready.item.problem is not None:
            show(ready.item.id, ready.item.problem, bad.total())
            bad[ready.item.problem.kind] += 1
            continue
        questions += 1
        images += len(ready.images)
        digests.update(hash(digest) for digest in ready.digests)
        formats.update(image.format or "?" for image in ready.images)
    print(f"rows: {questions + bad.total()}, of which {questions} can be asked")
    for kind, count in bad.most_common():
        print(f"  {kind}: {count}")
    print(f"images: {images}, of which {len(digests)} are different")
    if formats:
        print(f"  {', '.join(f'{count} {name}' for name, count in formats.most_common())}")
    repeated = sum(count - 1 for count in ids.values())
    if repeated:
        print(f"ids: {repeated} rows repeat the id of another; all are answered")
    for what, count in rows.skipped.items():
        print(f"passed over in the folder: {count} {what}")
    share = profile.average(VISUAL, LAYERS) / VISUAL
    print(f"profile {profile.name}: {share:.1%} of the visual tokens, on average over layers")
    print(
        f"  such as {share * VISUAL * images:,.0f} of {VISUAL * images:,} "
        f"for a model of {VISUAL} tokens an image"
    )
    print(f"decoding: {seconds:.1f} s; for the model's time, try --limit 20")
    return 1 if bad else 0


def show(identity: str, problem: Problem, before: int) -> None:
    """One bad row, unless there were too many."""
    if before < SHOWN:
        print(f"{identity}: {problem.kind}: {problem.message}")
    elif before == SHOWN:
        print("... and more; the counts follow")
