"""A model folder: its config, what it may take, and whether it is safe to open."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from llm_moments import schema
from llm_moments.errors import ModelError, MomentsError

if TYPE_CHECKING:
    from llm_moments.core import Pipeline

WEIGHTS = {"transformers": ("*.safetensors",), "gguf": ("*.gguf",), "ctranslate2": ("model.bin", "model-*.bin")}
TOKENIZERS = ("tokenizer*.json", "vocab*", "*.model", "*.spm", "*.tiktoken", "merges.txt", "*.gguf")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack")
LINEAR = "moments-linear"  # model_type of a linear model of words
NOTES = "moments.json"  # what `moments train` leaves in a model folder: the length it trained at


@dataclass(frozen=True)
class Model:
    """A checked local folder in the Hugging Face layout. Weights are opened by engines only."""

    path: Path
    config: dict[str, Any]
    trust_remote_code: bool = False
    source: str = ""
    known_digest: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    format: str = "transformers"  # transformers, gguf, ctranslate2, or remote (a server: source is its address)

    @property
    def name(self) -> str:
        return self.source or self.path.name

    @cached_property
    def digest(self) -> str:
        """sha256 of config and weights: equal digests answer equally on the same engine."""
        if self.known_digest:
            return self.known_digest
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for file in self.weight_files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()[:32]

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold the weights, in a fixed order; none for a server's model."""
        return sorted(p for pattern in WEIGHTS.get(self.format, ()) for p in self.path.glob(pattern))

    def variant(self, name: str) -> Model:
        """Other weights for the same task and tokenizer, that came with this model; ModelError if there are none."""
        folder = self.path / "weights" / name
        if not (folder / "config.json").is_file():
            raise ModelError(f"{self.name} came without the weights {name!r}: there is no {folder}")
        return Model(folder, checked_config(folder, self.trust_remote_code, weights=False), self.trust_remote_code)

    @cached_property
    def labels(self) -> list[str]:
        named = self.config.get("id2label")
        if not named:
            if told := (self.config.get("pretrained_cfg") or {}).get("label_names"):
                return [str(name) for name in told]
            return [f"LABEL_{i}" for i in range(int(self.config.get("num_labels", self.config.get("num_classes", 2))))]
        try:
            names = [str(named[key]) for key in sorted(named, key=int)]
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"{self.path / 'config.json'}: id2label should number its labels, not {named!r:.80}"
            ) from error
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            numbers = ", ".join(str(i) for i, name in enumerate(names) if name == twice)
            raise ModelError(
                f"{self.path / 'config.json'}: id2label calls the classes {numbers} all {twice!r}, so that answers "
                "could not be told apart. Give each a name of its own there."
            )
        return names

    @property
    def problem_type(self) -> str:
        """One of transformers' own: single_label_classification, multi_label_classification, regression."""
        guess = "regression" if len(self.labels) == 1 else "single_label_classification"
        return str(self.config.get("problem_type") or guess)

    @property
    def is_linear(self) -> bool:
        return self.config.get("model_type") == LINEAR

    @cached_property
    def vectorizer(self) -> Any:
        """What makes a linear model's features."""
        from llm_moments.engines.linear import load_vectorizer

        return load_vectorizer(self.path, self.config)

    @cached_property
    def tokenizer(self) -> Any:
        if self.is_linear:
            raise ModelError(f"{self.name} is a linear model of words: it has no tokenizer, and no length in tokens")
        if not any(True for name in TOKENIZERS for _ in self.path.glob(name)):
            raise ModelError(
                f"{self.path} has no tokenizer (such as tokenizer.json), and without the right one the answers would be "
                "wrong. Copy it there from where the model comes from: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
            )
        # A GGUF file brings its tokenizer along; a folder with one may have the original beside it.
        beside = any((self.path / name).exists() for name in ("tokenizer_config.json", "tokenizer.json"))
        try:
            if self.format == "gguf" and not beside:
                from llm_moments.gguf_tokenizer import tokenizer_of

                found = tokenizer_of(self)
            else:
                from transformers import AutoTokenizer

                found = AutoTokenizer.from_pretrained(
                    self.path, trust_remote_code=self.trust_remote_code, local_files_only=True
                )
        except MomentsError:
            raise
        except Exception as error:
            raise ModelError(f"{self.path}: its tokenizer cannot be loaded: {error}") from error
        if (
            len(found) - len(found.all_special_ids) < 2
        ):  # transformers makes an empty one where the vocabulary is missing
            raise ModelError(f"{self.path}: its tokenizer has no vocabulary: a file such as tokenizer.json is missing")
        return found

    @cached_property
    def max_length(self) -> int:
        """Most tokens a row, special ones included: the smaller of tokenizer's and positions' limit."""
        if self.format == "remote":  # the server knows, and says so when it is too much
            return 1_000_000
        limits = [n for n in (self._positions, _bound(getattr(self.tokenizer, "model_max_length", None))) if n]
        return max(min(limits, default=UNBOUNDED), 8)

    @property
    def _positions(self) -> int | None:
        """Tokens there are positions for; None where they are relative to one another (XLNet, T5)."""
        found = (_bound(self.config.get(name)) for name in POSITIONS)
        most = next((n for n in found if n), None)
        if most is None or self.config.get("model_type") not in _OFFSET_POSITIONS:
            return most
        padding = None if self.config.get("model_type") == "mpnet" else self.config.get("pad_token_id")  # fixed there
        return most - (1 if padding is None else int(padding)) - 1

    @property
    def trained_length(self) -> int | None:
        """The length it was trained at, if that is known: what a careful engineer would cut at."""
        length = self.notes.get("max_length")
        return int(length) if isinstance(length, int) else None


# What architectures call the number of their positions; the first that is there holds.
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
UNBOUNDED = 512  # where neither the model nor its tokenizer states a limit


def _bound(value: Any) -> int | None:
    """A limit as stated; None for none, for 0 and -1, and for the 1e30 that tokenizers write for none."""
    return int(value) if isinstance(value, int | float) and 0 < value < 1_000_000 else None


# These count positions from pad_token_id + 1, so they take that many tokens less.
_OFFSET_POSITIONS = {
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text", "xmod",
    "roberta-prelayernorm", "ibert", "esm", "lilt", "luke", "mluke",
}  # fmt: skip


def open_model(ref: str | Path, *, trust_remote_code: bool = False) -> Model:
    """The model in a local folder or, if there is none, of that id on the Hugging Face hub."""
    from llm_moments import model_formats as formats

    if str(ref).startswith(("http://", "https://")):
        return formats.remote(str(ref))
    path = Path(ref).expanduser()
    if not path.exists():
        path = _download(str(ref))
    if path.suffix == ".gguf" and path.is_file():
        return formats.gguf(path, str(ref))
    if path.is_file():
        raise ModelError(f"{ref} is a file; a model is a folder with config.json and *.safetensors, or a .gguf file")
    if (own := formats.folder(path, str(ref))) is not None:
        return own
    return Model(
        path,
        checked_config(path, trust_remote_code),
        trust_remote_code,
        source=str(ref),
        notes=_notes(path / NOTES),
    )


class Notes(TypedDict, total=False):
    """What the notes of a folder may say that is followed; they may say more."""

    task: str
    max_length: int
    translate: dict[str, Any]


def _notes(file: Path) -> dict[str, Any]:
    """Of a model that `train` made; none elsewhere."""
    if not file.exists():
        return {}
    return schema.read(file, "the notes of a model", lambda data: dict(schema.least(_named(data), Notes)), ModelError)


def _named(data: Any) -> dict[str, Any]:
    return schema.convert(data, dict[str, Any])


def checked_config(path: Path, trust_remote_code: bool, *, weights: bool = True) -> dict[str, Any]:
    """config.json of a folder that is safe to open. weights: whether there must be some."""
    if not (path / "config.json").exists():
        raise ModelError(f"{path} is not a model folder: it has no config.json")
    config = _read_json(path / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        if (path / name).exists() and "auto_map" in _read_json(path / name) and not trust_remote_code:
            raise ModelError(
                f"{path / name} asks to run code from the model folder (auto_map); refused. "
                "If you have read that code and trust it, pass --trust-remote-code."
            )
    if not any(True for pattern in WEIGHTS["transformers"] for _ in path.glob(pattern)):
        pickles = sorted(p.name for pattern in PICKLES for p in path.glob(pattern))
        if pickles:
            raise ModelError(
                f"{path} holds its weights as a pickle ({pickles[0]}), which can run code; refused. "
                "Convert it: AutoModel.from_pretrained(...).save_pretrained(..., safe_serialization=True)"
            )
        if weights and not list(path.glob("built/*/*")):
            raise ModelError(f"{path} has no *.safetensors weights")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} should hold a JSON object")
    return value


def _download(ref: str) -> Path:
    if ref.count("/") > 1 or ref.startswith((".", "/", "~")):
        raise ModelError(f"{ref}: there is no such folder")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise ModelError(f"{ref}: there is no such folder, and huggingface_hub is not installed") from error
    keep = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm"]
    try:
        return Path(snapshot_download(ref, allow_patterns=keep))
    except (OSError, ValueError, HFValidationError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{ref}: no such folder, and the hub did not give it: {first}") from error


def load(
    ref: str | Path | Pipeline,
    *,
    task: str | None = None,
    plan: Any = None,
    metric: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Pipeline:
    """A pipeline from a local folder, a hub id, a .gguf file, an OpenAI-compatible server's address
    (`http://127.0.0.1:8080/v1#model-name`), or an artefact (which brings its plan along).

    task: one of `tasks.base.TASKS`, where the model could be for several. metric: what answers are judged by,
    where the task knows several (exact match, token F1, chrF). plan: a Plan, or changes such as `{"truncate.max_length": 64}`, on top of the stock plan.
    """
    from llm_moments.artefact import is_artefact, open_artefact
    from llm_moments.atomic import recover
    from llm_moments.core import Pipeline, Plan
    from llm_moments.engines.base import Engines
    from llm_moments.tasks.base import task_for

    if isinstance(ref, Pipeline):
        if task or metric:  # the same model and plan, judged in another way
            ref = Pipeline(task_for(ref.model, task or ref.task.name, metric), ref.model, ref.plan, engines=ref.engines)
        return ref if plan is None else ref.with_(**plan)
    recover(Path(ref))
    if is_artefact(ref):
        model, stored = open_artefact(Path(ref), trust_remote_code=trust_remote_code)
    else:
        model, stored = open_model(ref, trust_remote_code=trust_remote_code), None
    chosen = task_for(model, task or model.notes.get("task"), metric)
    base = stored or Plan(chosen.stock(model))
    wanted = plan if isinstance(plan, Plan) else base.with_(**(plan or {}))
    engines = Engines(model, device=device, keep=getattr(chosen, "engines_open", 6))
    return Pipeline(chosen, model, wanted, engines=engines)
