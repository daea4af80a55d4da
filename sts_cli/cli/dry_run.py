"""sts batch --dry-run: everything but the model."""

from __future__ import annotations

from collections import Counter

from sts_cli.inputs.images import decode_ahead
from sts_cli.inputs.items import Input
from sts_cli.profile import Profile


def dry_run(rows: Input, profile: Profile, limit: int | None, part: tuple[int, int]) -> int:
    """Read every row and decode every image; print what a run would meet. The exit code."""
    first, step = part
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    digests: set[str] = set()
    images = questions = 0
    items = (
        item
        for number, item in enumerate(rows)
        if number % step == first and (limit is None or number < limit)
    )
    for ready in decode_ahead(items):
        if ready.item.problem is not None:
            kinds[ready.item.problem.kind] += 1
            print(f"{ready.item.id}: {ready.item.problem.kind}: {ready.item.problem.message}")
            continue
        questions += 1
        images += len(ready.images)
        digests.update(ready.digests)
        sizes.update("x".join(map(str, image.size)) for image in ready.images)
    bad = kinds.total()
    print(f"{questions + bad} rows: {questions} can be asked, {bad} cannot")
    print(f"{images} images, {len(digests)} different")
    if sizes:
        common = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(5))
        print(f"sizes in pixels: {common}{', ...' if len(sizes) > 5 else ''}")
    for what, count in rows.skipped.items():
        print(f"passed over in the folder: {count} {what}")
    share = profile.average(576, 32) / 576
    print(f"profile {profile.name} keeps {share:.1%} of the visual tokens on average over layers")
    return 1 if bad else 0
