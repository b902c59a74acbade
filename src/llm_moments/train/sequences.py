"""Pairs of what is asked and what should be answered, as token ids with labels, in padded or packed batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, ModelError, PlanError
from llm_moments.core import Batch, Knob, Outputs, Plan, Recorder, Step, Task, one_of, whole
from llm_moments.steps.prompt import Dialogue
from llm_moments.steps.source import CutSource, Translate, languages_of
from llm_moments.train.token_loss import IGNORED

KNOBS = (
    Knob("order", "length", ("input", "length"), True, one_of("input", "length"), "input or length"),
    Knob("size", 32, (), True, whole(1), "most examples a batch, >= 1"),
    Knob("tokens", 0, (), True, whole(0), "most padded tokens a batch; 0: no bound"),
    Knob("reuse", False, (), True, one_of(False), "false"),
)


@dataclass(frozen=True)
class Row:
    """One example. ids: what the model reads (of an encoder-decoder: the source); start: the decoder's input, of
    an encoder-decoder only; labels: of each token of the decoder's input the one that should come next."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    start: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return len(self.ids) + len(self.start)


class Learning(Task):
    """A generating task as it is learnt: values are (input, answer) pairs; the answer None: the whole text is learnt.

    Outputs are the mean log-likelihood of an answer's tokens, float64 [n], which is the score, too.
    """

    sorts: Mapping[str, Any] = {"batch.order": "length"}

    def __init__(self, task: Any, max_length: int, pack: bool, pad: int, start: int | None):
        super().__init__(task.model)
        self.task, self.max_length, self.pack, self.pad, self.start = task, max_length, pack, pad, start
        self.name = task.name

    @property
    def notes(self) -> Mapping[str, Any]:
        return {"task": self.task.name}

    def metric(self) -> str:
        return "log-likelihood a token"

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        return {**self.task.knobs(), "batch": KNOBS}

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        make = Translations(self.model, plan, self.max_length, int(self.start or 0)) if self.start is not None else Texts(self.task, plan, self.max_length)  # fmt: skip
        return [make, MakeRows(plan.settings("batch"), self.pad, self.max_length if self.pack else 0), Likelihood(engines, self.pad)]  # fmt: skip

    def normalise(self, value: Any) -> Any:
        """(input, answer): the input as the task takes it, the answer a text, or None where all is to be learnt."""
        asked, answer = value
        if answer is not None and not isinstance(answer, str):
            raise DataError(f"an answer to learn is a text, not {answer!r:.80}")
        if answer is not None and not answer.strip():
            raise DataError("an answer to learn is empty")
        dialogue = isinstance(asked, Mapping) and "messages" in asked
        if dialogue and answer is None:
            from llm_moments.steps.prompt import messages_of

            turns = messages_of(asked["messages"])
            if not any(role == "assistant" for role, _ in turns):
                raise DataError(
                    "a dialogue without an answer of the assistant, and without a reference: nothing to learn"
                )
            return turns, None
        return self.task.normalise(asked), answer

    def references(self, raw: Iterable[Any]) -> list[Any]:
        return list(raw)

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> np.ndarray:
        return np.asarray(outputs["likelihood"])

    def agreement(self, outputs: Outputs, baseline: Outputs) -> np.ndarray:
        return self.scores(outputs, ())

    def answers(self, outputs: Outputs) -> list[Any]:
        return outputs["likelihood"].tolist()

    def stock(self) -> Mapping[str, Mapping[str, Any]]:
        return self.task.stock()

    def divergence(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        return np.abs(outputs["likelihood"] - others["likelihood"])

    def as_references(self, outputs: Outputs) -> list[Any]:
        raise PlanError("log-likelihoods are no references")

    def argmax_equal(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        return self.close(outputs, others, 0.0)

    def close(self, outputs: Outputs, others: Outputs, within: float) -> np.ndarray:
        return self.divergence(outputs, others) <= within

    def save_inputs(self, plan: Plan, folder: Path) -> None:
        self.model.tokenizer.save_pretrained(folder)


class Translations:
    """Writes `rows`: sources in the model's own tokens, translations shifted by the start token (teacher forcing)."""

    name = "tokenize"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("rows",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, model: Any, plan: Plan, max_length: int, start: int):
        self.languages = languages_of(model)
        self.source, self.target, prefix = self.languages.chosen(plan.settings("translate"))
        single = bool(hasattr(self.languages.tokenizer, "supported_language_codes") and not self.languages.codes)
        self.told = Translate(prefix, single)
        self.cut = CutSource(max_length, self.languages.closing).cut
        self.max_length, self.start = max_length, start
        if self.languages.begins:  # a language may be what an answer starts with
            self.start = self.languages.beginning(start, self.target)[0]

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        asked = self.told(Batch(batch.size, {"input": [value[0] for value in batch["input"]]}), recorder)["text"]
        sources = self.languages.encode(asked, self.source)
        answers = self.languages.answer([value[1] for value in batch["input"]], self.target)
        rows = []
        for ids, labels in zip(sources, answers, strict=True):
            labels = labels[: self.max_length]
            rows.append(Row(tuple(self.cut(ids)), tuple(labels), (self.start, *labels[:-1])))
        _count(recorder, [len(s) + len(a) for s, a in zip(sources, answers, strict=True)], rows)
        return batch.with_(rows=rows)


class Texts:
    """Writes `rows` of a causal model: prompt and answer in one, labels on the answer only.

    Of a row that is too long the prompt's beginning goes first, then the answer's end.
    """

    name = "tokenize"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("rows",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, task: Any, plan: Plan, max_length: int):
        self.dialogue = Dialogue(task.model.tokenizer)
        self.templated, self.system, self.max_length = (
            task.templated,
            plan.settings("template").get("system", ""),
            max_length,
        )

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        made = [self.encoded(*value) for value in batch["input"]]
        rows = [self.fitted(ids, learnt) for ids, learnt in made]
        _count(recorder, [len(ids) for ids, _ in made], rows)
        return batch.with_(rows=rows)

    def encoded(self, asked: Any, answer: str | None) -> tuple[list[int], list[bool]]:
        """Token ids and, for each, whether it is learnt."""
        if self.templated:
            from llm_moments.steps.prompt import with_system

            turns = with_system(asked, self.system)
            return self.dialogue_row(turns if answer is None else (*turns, ("assistant", answer)), answer is not None)
        ids = self.dialogue.encode_prompt(asked)
        end = self.dialogue.tokenizer.eos_token_id
        ending = [] if end is None else [end]
        if answer is None:
            return [*ids, *ending], [True] * (len(ids) + len(ending))
        more = [*self.dialogue.encode_plain(answer), *ending]
        return [*ids, *more], [False] * len(ids) + [True] * len(more)

    def dialogue_row(self, turns: Any, last_only: bool) -> tuple[list[int], list[bool]]:
        """The dialogue up to its last answer; of each turn of the assistant (or the last) its tokens are learnt."""
        answers = [at for at, (role, _) in enumerate(turns) if role == "assistant"]
        ids = self.dialogue.encode(turns[: answers[-1] + 1], begin=False)
        learnt = [False] * len(ids)
        for at in answers[-1:] if last_only else answers:
            before = self.dialogue.encode(turns[:at])
            after = ids if at == answers[-1] else self.dialogue.encode(turns[: at + 1], begin=False)
            if ids[: len(before)] != before or ids[: len(after)] != after:
                raise ModelError(
                    "this model's chat template writes earlier turns in another way once an answer follows: its answers "
                    "cannot be found in the dialogue's tokens. Give the data as prompt and reference, --task text-generation"
                )
            learnt[len(before) : len(after)] = [True] * (len(after) - len(before))
        return ids, learnt

    def fitted(self, ids: list[int], learnt: list[bool]) -> Row:
        over = len(ids) - self.max_length
        if over > 0:
            cut = min(over, max(learnt.index(True) - 1, 0))  # one token of the prompt stays, to predict from
            ids, learnt = ids[cut:][: self.max_length], learnt[cut:][: self.max_length]
        labels = [token if keep else IGNORED for token, keep in zip(ids, learnt, strict=True)]
        return Row(tuple(ids), (*labels[1:], IGNORED))


def _count(recorder: Recorder, lengths: Sequence[int], rows: Sequence[Row]) -> None:
    over = [max(length - (row.size or len(row.ids)), 0) for length, row in zip(lengths, rows, strict=True)]
    recorder.count(tokens=sum(lengths), cut_rows=sum(n > 0 for n in over), cut_tokens=sum(over))


class MakeRows:
    """Writes `batches`, a list of (examples, arrays): padded rows of like length, or, with pack, rows of that many
    tokens in which several examples stand one after another, each with positions of its own."""

    name = "batch"
    reads: tuple[str, ...] = ("rows",)
    writes: tuple[str, ...] = ("batches",)
    knobs: tuple[Knob, ...] = KNOBS

    def __init__(self, settings: Mapping[str, Any], pad: int, pack: int):
        known = {knob.name: knob.default for knob in KNOBS} | dict(settings)
        self.order, self.size, self.tokens, self.pad, self.pack = (
            known["order"],
            known["size"],
            known["tokens"],
            pad,
            pack,
        )

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        rows = batch["rows"]
        made = list(self.packed(rows)) if self.pack else [(p, padded([rows[i] for i in p], self.pad)) for p in self.parts(rows)]  # fmt: skip
        if recorder.active:
            places = sum(sum(a.size for n, a in arrays.items() if n.endswith("input_ids")) for _, arrays in made)
            recorder.count(batches=len(made), tokens=sum(row.size for row in rows), padded_tokens=places)
        return batch.with_(batches=made)

    def parts(self, rows: Sequence[Row]) -> Iterator[np.ndarray]:
        sizes = np.array([row.size for row in rows])
        order = np.argsort(-sizes, kind="stable") if self.order == "length" else np.arange(len(rows))
        start, longest = 0, 0
        for at, row in enumerate(order):
            grown = max(longest, sizes[row])
            if at > start and (at - start + 1 > self.size or (self.tokens and grown * (at - start + 1) > self.tokens)):
                yield order[start:at]
                start, grown = at, sizes[row]
            longest = int(grown)
        yield order[start:]

    def packed(self, rows: Sequence[Row]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """First fit: an example goes into the first row that has room for it."""
        bins: list[list[int]] = []
        room: list[int] = []
        for at, row in enumerate(rows):
            place = next((i for i, left in enumerate(room) if left >= len(row.ids)), None)
            if place is None:
                bins.append([])
                room.append(self.pack)
                place = len(bins) - 1
            bins[place].append(at)
            room[place] -= len(row.ids)
        each = max((self.tokens or self.size * self.pack) // self.pack, 1)
        for start in range(0, len(bins), each):
            some = bins[start : start + each]
            yield (
                np.array([at for one in some for at in one]),
                packed([[rows[at] for at in one] for one in some], self.pad),
            )


def padded(rows: Sequence[Row], pad: int) -> dict[str, np.ndarray]:
    """int64 [rows, longest] each; an encoder-decoder has decoder_input_ids, to which the labels belong."""
    made = {
        "input_ids": _filled([row.ids for row in rows], pad),
        "attention_mask": _filled([[1] * len(row.ids) for row in rows], 0),
        "labels": _filled([row.labels for row in rows], IGNORED),
    }
    if rows[0].start:
        made["decoder_input_ids"] = _filled([row.start for row in rows], pad)
    return made


def packed(rows: Sequence[Sequence[Row]], pad: int) -> dict[str, np.ndarray]:
    """Examples one after another; positions begin anew with each, by which transformers keeps them apart."""
    return {
        "input_ids": _filled([[t for row in one for t in row.ids] for one in rows], pad),
        "position_ids": _positions([[len(row.ids) for row in one] for one in rows]),
        "labels": _filled([[t for row in one for t in row.labels] for one in rows], IGNORED),
    }


def _positions(lengths: Sequence[Sequence[int]]) -> np.ndarray:
    width = max(map(sum, lengths))
    made = [np.concatenate([*map(np.arange, some), np.arange(width - sum(some))]) for some in lengths]
    return np.array(made, np.int64)


def _filled(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    made = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for at, row in enumerate(rows):
        made[at, : len(row)] = row
    return made


class Likelihood:
    """Writes `outputs`: the mean log-likelihood of each example's learnt tokens, float64 [n], without packing."""

    name = "forward"
    reads: tuple[str, ...] = ("rows",)
    writes: tuple[str, ...] = ("outputs",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, engines: Any, pad: int):
        self.engines, self.pad = engines, pad

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        import torch

        module = self.engines.get({}).module
        rows, told = batch["rows"], np.empty(batch.size)
        for part in MakeRows({"size": 16}, self.pad, 0).parts(rows):
            arrays = {
                n: torch.from_numpy(a).to(module.device) for n, a in padded([rows[i] for i in part], self.pad).items()
            }
            labels = arrays.pop("labels")
            with torch.inference_mode():
                logits = module(**arrays, use_cache=False).logits.float()
                loss = torch.nn.functional.cross_entropy(
                    logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
                )
                told[part] = -(loss.sum(1) / (labels != IGNORED).sum(1).clamp_min(1)).cpu().numpy()
        return batch.with_(outputs=Outputs({"likelihood": told}))
