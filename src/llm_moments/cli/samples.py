"""Several drawn answers to each input: sample n is what the seed S + n draws alone, whatever else is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_moments.core import Pipeline


@dataclass(frozen=True, slots=True)
class Drawn:
    """An example (core/example.py) as one of its samples is asked for."""

    input: Any
    id: Any
    sample: int


class Samples:
    """A pipeline that answers an input `count` times. `run` as a pipeline has it, but for `Drawn` examples."""

    def __init__(self, pipe: Pipeline, count: int):
        from llm_moments.base.errors import InputError

        self.pipe, self.count = pipe, count
        decode = pipe.plan.settings("decode")
        if count > 1 and not decode.get("temperature"):
            raise InputError(f"--samples {count} are drawn, and at temperature 0 all are the same: give --temperature")
        self.first = int(decode.get("seed", 0))

    def repeated(self, examples: Iterable[Any]) -> Iterator[Any]:
        if self.count == 1:
            yield from examples
            return
        for one in examples:
            for sample in range(self.count):
                yield Drawn(one.input, one.id, sample)

    def told(self, example: Any) -> dict[str, int]:
        """What a row says beside its answer."""
        return {"sample": example.sample, "seed": self.first + example.sample} if isinstance(example, Drawn) else {}

    def run(self, examples: Sequence[Any]) -> Iterator[Any]:
        if self.count == 1:
            yield from self.pipe.run([one.input for one in examples])
            return
        from llm_moments.base.errors import RowsFailed

        made: dict[int, Any] = {}
        for sample in range(self.count):
            rows = [at for at, one in enumerate(examples) if isinstance(one, Drawn) and one.sample == sample]
            drawn = self.pipe.with_(**{"decode.seed": self.first + sample})
            try:
                made.update(zip(rows, drawn.run([examples[at].input for at in rows]), strict=True))
            except RowsFailed as failed:
                raise failed.moved(rows.__getitem__) from failed
        yield from (made[at] for at in range(len(examples)))
