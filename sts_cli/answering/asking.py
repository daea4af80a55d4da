"""One batch of questions: tokenize, encode what is new, generate, ask again what is not certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sts_cli.answering.cascade import again, summed
from sts_cli.answering.features import FeatureCache
from sts_cli.answering.guiding import Guide
from sts_cli.answering.questions import Question
from sts_cli.answering.request import Request
from sts_cli.answering.stream import TextStream, decode
from sts_cli.engine.choosing_images import Choices
from sts_cli.engine.engine import Engine
from sts_cli.engine.importance import guided
from sts_cli.engine.looks import Looks
from sts_cli.engine.session import Generation
from sts_cli.families.default import Prompt
from sts_cli.profile import Narrowing, Profile
from sts_cli.records import Answer, Seconds, TokenCounts


@dataclass(frozen=True, eq=False)
class Pending:
    """A question as the engine takes it, until it is answered."""

    question: Question
    prompt: Prompt
    encode: float  # seconds
    guide: float = 0.0  # seconds that a guide took to answer


class Asker:
    """Asks the engine questions of one request; remembers what was chosen of their images.

    What fails raises, and may be asked again: nobody then counts as having gone on.
    """

    def __init__(
        self,
        engine: Engine,
        images: FeatureCache,
        request: Request,
        on_text: Callable[[str], None] | None,
        guide: Guide | None = None,
    ):
        self.engine = engine
        self.guide = guide
        self.images = images
        self.request = request
        self.on_text = on_text
        self.choices = Choices()
        self.looks = Looks()
        self.count = 0
        self.passed = [[0] * len(one.ladder) for one in request.profiles]  # went on, by level

    def pending(self, batch: Sequence[Question], cut: Narrowing | None) -> list[Pending]:
        """The questions tokenized, their images encoded with a profile's `encoder`.

        Under one profile, new images' seconds are divided by the rows that brought them.
        """
        family = self.engine.family
        ids = [
            family.tokenize(one.item.question, [p.pixels for p in one.pictures], one.item.image_at)
            for one in batch
        ]
        encoding = [any(cut not in p.encoded for p in one.pictures) for one in batch]
        encode = self.images.encode([p for one in batch for p in one.pictures], cut)
        share = encode / max(1, sum(encoding)) if len(self.request.profiles) == 1 else encode
        return [
            Pending(
                question,
                Prompt(
                    row,
                    tuple(picture.encoded[cut] for picture in question.pictures),
                    question.item.max_new_tokens,
                ),
                share if new else 0.0,
            )
            for question, row, new in zip(batch, ids, encoding, strict=True)
        ]

    def under(self, batch: Sequence[Question], profile: Profile) -> list[Pending]:
        """The questions as `pending`, with what the profile's guide says, if it has one."""
        return self.guided(self.pending(batch, profile.encoder), profile)

    def guided(self, pending: Sequence[Pending], profile: Profile) -> list[Pending]:
        """The questions with what the profile's guide says, if it has one.

        Every profile that has one pays for it, as if the others had not asked.
        """
        if profile.guide is None or not pending:
            return list(pending)
        assert self.guide is not None  # checked with the profile
        heard = self.guide.hear([one.question for one in pending])
        alone = len(self.request.profiles) == 1
        return [
            replace(
                one,
                prompt=guided(one.prompt, found.images, found.scores),
                guide=found.seconds / (found.rows if alone else 1),
            )
            for one, found in zip(pending, heard, strict=True)
        ]

    def answers(
        self, batch: Sequence[Question], profiles: Sequence[Profile]
    ) -> list[tuple[Answer, ...]]:
        cold = len(profiles) > 1 and self.count == 0
        warm = [rung for one in profiles for rung in one.ladder] if cold else []
        cuts = dict.fromkeys(one.encoder for one in (*profiles, *warm))
        pending = {cut: self.pending(batch, cut) for cut in cuts}
        if cold and self.guide is not None:
            self.guide.warm(batch[0])
        ready = [self.guided(pending[one.encoder], one) for one in profiles]
        for one in warm:  # first calls allocate and compile
            (first,) = self.guided(pending[one.encoder][:1], one)
            self.engine.generate([replace(first.prompt, limit=2)], one)
        self.count += 1
        parts = len(batch) if len(profiles) == 1 else 1  # under one profile, seconds are shares
        order = list(enumerate(profiles))[:: 1 if self.count % 2 else -1]  # in turn: A B, B A
        passed = [list(one) for one in self.passed]  # a batch that fails is answered again
        found = {
            number: self._climbed(ready[number], one, number == 0, parts, passed[number])
            for number, one in order
        }
        self.passed = passed
        return list(zip(*(found[number] for number in range(len(profiles))), strict=True))

    def _climbed(
        self,
        pending: Sequence[Pending],
        profile: Profile,
        stream: bool,
        parts: int,
        passed: list[int],
    ) -> list[Answer]:
        """The answers of a batch under a profile, those not certain under the next, and so on.

        Every row gets its part of each try's seconds. `passed` counts the rows that went on.
        """
        streams = stream and profile.escalate is None  # else an answer may be withdrawn
        rows = self._under(pending, profile, streams, parts)
        asked = list(range(len(rows)))
        for level, one in enumerate(profile.ladder[:-1]):
            assert one.escalate is not None
            sent = []
            for index in asked:
                number = pending[index].question.number
                asks = one.escalate.doubts(rows[index].certainty)
                if asks and one.escalate.allows(number, passed[level]):
                    passed[level] += 1
                    sent.append(index)
            if not sent:
                break
            questions = [pending[index].question for index in sent]
            waiting = self.pending(questions, one.escalate.to.encoder)
            later = self._under(waiting, one.escalate.to, False, parts)
            spent = later[0].seconds
            assert spent is not None
            rows = [add(row, spent) if index not in sent else row for index, row in enumerate(rows)]
            for index, row in zip(sent, later, strict=True):
                rows[index] = again(rows[index], row)
            asked = sent
        if stream and not streams and self.on_text is not None:
            self.on_text(rows[0].text or "")
        return rows

    def _under(
        self, pending: Sequence[Pending], profile: Profile, stream: bool, parts: int
    ) -> list[Answer]:
        """The answers of a batch under one profile."""
        found = self._generate([one.prompt for one in pending], profile, stream)
        return [
            self.row(each, one, profile, len(pending), parts)
            for each, one in zip(pending, found, strict=True)
        ]

    def _generate(
        self, prompts: Sequence[Prompt], profile: Profile, first: bool
    ) -> list[Generation]:
        shown = None
        if first and self.on_text is not None:
            shown = TextStream(self.engine.family.tokenizer, self.on_text)
        found = self.engine.generate(
            prompts,
            profile,
            max_new_tokens=self.request.max_new_tokens,
            choices=self.choices,
            places=self.request.places,
            looks=self.looks if first else None,
            on_ids=None if shown is None else shown.show,
        )
        if shown is not None:
            shown.show(found[0].ids, last=True)
        return found

    def row(
        self, pending: Pending, found: Generation, profile: Profile, rows: int, parts: int = 1
    ) -> Answer:
        image, encode = pending.question.image_seconds, pending.encode
        select, prefill, decoding = (
            seconds / parts for seconds in (found.select, found.prefill, found.decode)
        )
        select += pending.guide  # its answer is how tokens are chosen
        first = image + encode + select + prefill
        return Answer(
            item=pending.question.item,
            model=self.engine.name,
            profile=profile.name,
            text=decode(self.engine.family.tokenizer, found.ids),
            tokens=TokenCounts(
                visual=found.visual,
                left=found.left,
                average=profile.average(found.visual, found.left, self.engine.layers),
                text=found.text,
                generated=len(found.ids),
            ),
            seconds=Seconds(
                image=image,
                encode=encode,
                select=select,
                prefill=prefill,
                decode=decoding,
                first_token=first,
                total=first + decoding,
            ),
            rows=rows,
            finish=found.finish,
            certainty=found.certainty,
            kept=found.kept,
            looks=found.looks,
        )


def add(row: Answer, spent: Seconds) -> Answer:
    """The answer, whose batch also spent this."""
    assert row.seconds is not None
    return replace(row, seconds=summed(row.seconds, replace(spent, encode=0.0)))
