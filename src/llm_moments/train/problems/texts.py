"""Texts to be made: by causal and by sequence-to-sequence models, from a folder or from nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError, InputError, ModelError
from llm_moments.core import Example, Pipeline, Plan
from llm_moments.data.labels import missing
from llm_moments.data.readers import source_of
from llm_moments.engines.base import Engines
from llm_moments.evaluate.evaluation import Evaluation, refuse
from llm_moments.models.model import Model, checked_config
from llm_moments.tasks.base import MEANT, task_for
from llm_moments.train.feed import Rows, Stream
from llm_moments.train.place import asked_for, digest_of
from llm_moments.train.problems.contract import Asked, Job, Problem, Tick, of_first_rows, stream_told
from llm_moments.train.sequences import Learning, Row, packed, padded
from llm_moments.train.settings import Settings
from llm_moments.train.token_loss import TokenLoss

FRESH = "marian"
APART = 1e-3  # of the logits: how far a packed example may be from the same one alone
NOT_HERE: dict[str, Any] = {
    "class_weights": None,
    "augment": {},
    "balance": False,
    "image_size": 0,
    "translate_there": "",
    "translate_back": "",
    "translate_languages": "",
}


class Texts(Problem):
    """The answers of the examples are learnt, token by token; of whole texts and dialogues without a reference, these."""

    tasks = ("translation", "chat", "text-generation")

    @classmethod
    def takes(cls, asked: Asked) -> bool:
        """Whether a text is to be made: so it is said, or the model can do nothing else, or the data hold dialogues."""
        if asked.task is not None or is_fresh(asked.model):
            return asked.task in cls.tasks or asked.task is None
        made_for = [str(name) for name in _config(asked.model).get("architectures") or ()]
        if any(told in name for name in made_for for told, meant in MEANT if meant == "translation"):
            return True
        writes = any("CausalLM" in name or "LMHead" in name for name in made_for)
        return source_of(asked.sources[0]).columns.get("text") in ("messages", "prompt") and writes

    def __init__(self, asked: Asked):
        _classifiers_only(asked)
        wanted = asked.settings
        self.module, self.model = begun(asked.model, asked.examples, wanted)
        chosen = task_for(self.model, asked.task)
        if chosen.name not in self.tasks:
            raise InputError(f"{self.model.name} is for {chosen.name}, which is not learnt from texts; give --task")
        self.seq2seq = bool(self.module.config.is_encoder_decoder)
        if self.seq2seq != (chosen.name == "translation"):
            raise InputError(f"{self.model.name} {'reads a source and writes a target' if self.seq2seq else 'goes on with a text'}: it is no model for {chosen.name}")  # fmt: skip
        if wanted.pack:
            wanted = replace(wanted, batch_tokens=wanted.batch_tokens or wanted.batch_size * wanted.max_length)
        self.asked, self.settings = asked, wanted
        self.task = Learning(
            chosen, min(wanted.max_length, self.model.max_length), wanted.pack, padding(self.module, self.model.tokenizer),
            _start(self.module) if self.seq2seq else None,
        )  # fmt: skip
        self.pipe = Pipeline(self.task, Plan({}).with_(**wanted.choices), engines=Engines(self.model))
        self.values = self.learnt(asked.examples)
        if asked.examples and not self.values:
            raise DataError(f"{asked.name}: no row has an answer to learn; name its column with --label-column")
        self.held = self._values(*asked.judged, asked.sources[1])
        if asked.judged[0] and not self.held:
            raise DataError(f"{asked.judged[1]}: no row has an answer to learn; name its column with --label-column")
        if wanted.pack:
            _keeps_apart(self.module, self.task, self.seq2seq)
        self.question = {
            "model": self.model.digest, "data": digest_of(asked.examples, asked.judged[0]), "settings": asked_for(wanted),
            "task": chosen.name,
        }  # fmt: skip
        if asked.stream is not None:
            self.question["stream"] = stream_told(asked)

    def job(self, tick: Tick, learn: Callable[..., Any]) -> Job:
        part = Evaluation(self.pipe, self.held, [answer for _, answer in self.held]) if self.held else None
        same = len({repr(v[0]) for v in self.values} & {repr(v[0]) for v in self.held})
        said = [f"{same:,} of the inputs to judge by are learnt from, too: their score says little"] if same else []
        said = of_first_rows(self.asked, said)
        loss = TokenLoss(self.settings.label_smoothing, _width(self.module.config))
        stream = self.asked.stream
        feed = (
            Rows(self.values, None)
            if stream is None
            else Stream(stream, lambda some, first: (self.learnt(some, first), None))
        )
        return Job(
            self.module, self.pipe, feed, loss, self.settings, self.question, (part, self.asked.judged[1]), said,
            len(self.values), self.asked.read_s,
        )  # fmt: skip

    def learnt(self, examples: Sequence[Example], first: int = 0) -> list[Any]:
        """(input, answer) of each; a row without an answer, where one is needed, is refused or left out."""
        return self._values(examples, self.asked.name, self.asked.sources[0], first)

    def _values(self, examples: Sequence[Example], name: str, data: Any, first: int = 0) -> list[Any]:
        made = []
        for row, example in enumerate(examples, first + 1):
            if self.seq2seq and missing(example.reference):
                refuse("no answer to learn", example, row, data, name, "no label")
                continue
            try:
                made.append(self.task.normalise((example.input, example.reference)))
            except DataError as error:
                refuse(str(error), example, row, data, name, "wrong row")
        return made


def _classifiers_only(asked: Asked) -> None:
    """InputError for what is asked for and belongs to classifiers."""
    wanted = asked.settings
    if asked.unlabelled is not None:
        raise InputError("labels for unlabelled rows are given by classifiers only")
    for setting, usual in NOT_HERE.items():
        if getattr(wanted, setting) != usual:
            raise InputError(
                f"{setting.replace('_', '-')} is for classifiers; a model that makes texts learns without it"
            )
    if wanted.loss not in (None, "cross-entropy"):
        raise InputError(f"texts are learnt with cross-entropy, not with {wanted.loss!r}")
    if wanted.model_options and not is_fresh(asked.model):
        raise InputError("model options are for what begins fresh; a folder has a configuration of its own")


def _config(model: str | Path) -> dict[str, Any]:
    try:
        return dict(json.loads((Path(model) / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def is_fresh(model: str | Path) -> bool:
    return str(model) == FRESH and not (Path(model) / "config.json").exists()


def begun(model: str | Path, examples: Sequence[Example], wanted: Settings) -> tuple[Any, Model]:
    """The module in float32, in training, and its model; weights are drawn where there are none."""
    if is_fresh(model):
        from llm_moments.train.fresh_marian import fresh_marian

        pairs = [(str(e.input), str(e.reference)) for e in examples]
        module, tokenizer = fresh_marian(pairs, wanted.model_options, wanted.seed)
        told = json.loads(module.config.to_json_string(use_diff=False))
        made = json.dumps([told, tokenizer.backend_tokenizer.to_str(), wanted.seed], sort_keys=True)
        described = Model(Path(FRESH), {**told, "architectures": ["MarianMTModel"]}, known_digest=_digest(made))
        described.__dict__["tokenizer"] = tokenizer
        return module, described
    path = Path(model)
    config = checked_config(path, False, weights=False)
    if list(path.glob("*.safetensors")):
        from llm_moments.engines.generating import load_generating

        described = Model(path, config)
        return load_generating(described), described
    return _drawn(path, config, wanted.seed)


def _drawn(path: Path, config: Mapping[str, Any], seed: int) -> tuple[Any, Model]:
    import torch
    import transformers

    named = str((config.get("architectures") or [""])[0])
    auto = transformers.AutoModelForCausalLM if "CausalLM" in named or "LMHead" in named else transformers.AutoModelForSeq2SeqLM  # fmt: skip
    torch.manual_seed(seed)
    try:
        module = auto.from_config(
            transformers.AutoConfig.from_pretrained(path, local_files_only=True), dtype=torch.float32
        )
    except Exception as error:
        raise ModelError(f"{path} has no weights, and none can be drawn for its config.json: {error}") from error
    return module, Model(path, dict(config), known_digest=_digest(json.dumps([config, seed], sort_keys=True)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def padding(module: Any, tokenizer: Any) -> int:
    """An id to fill rows with; it is masked, so that any will do."""
    found = (tokenizer.pad_token_id, module.config.pad_token_id, tokenizer.eos_token_id)
    return int(next((n for n in found if n is not None), 0))


def _width(config: Any) -> int | None:
    last = config.vocab_size - 1
    return last if config.model_type == "marian" and config.pad_token_id == last else None


def _start(module: Any) -> int:
    start = module.config.decoder_start_token_id
    if start is None:
        start = module.generation_config.decoder_start_token_id
    if start is None:
        raise ModelError("config.json does not say what a decoder starts with (decoder_start_token_id)")
    return int(start)


def _keeps_apart(module: Any, learning: Learning, seq2seq: bool) -> None:
    """Packed examples must not see one another; a model that does not look at positions for it is refused."""
    import torch

    if seq2seq:
        raise InputError(
            "examples are packed for causal models only; sources and targets are grouped by length: leave --pack out"
        )
    size = min(int(module.config.vocab_size), 50)
    rows = [Row(tuple((i * k) % size for i in range(1, 7)), (-100,) * 6) for k in (3, 7)]
    was, ways = module.training, []
    module.eval()
    with torch.no_grad():
        for arrays in (packed([rows], learning.pad), padded(rows, learning.pad)):
            arrays.pop("labels")
            made = module(**{n: torch.from_numpy(a) for n, a in arrays.items()}, use_cache=False).logits
            ways.append(made.reshape(12, -1))
    module.train(was)
    if float((ways[0] - ways[1]).abs().max()) > APART * float(ways[1].abs().max().clamp_min(1)):
        raise InputError(f"{type(module).__name__} lets packed examples see one another; leave --pack out")
