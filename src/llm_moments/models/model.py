"""A model folder: its config, what it may take, and whether it is safe to open."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_moments.base.errors import ModelError, MomentsError
from llm_moments.models.config_check import check, check_sizes
from llm_moments.models.encoder import Encoder
from llm_moments.models.linear import LINEAR, load_vectorizer
from llm_moments.models.vectorizer import Vectorizer

WEIGHTS = {
    "transformers": ("*.safetensors",),
    "gguf": ("*.gguf",),
    "ctranslate2": ("model.bin", "model-*.bin"),
    "onnx": ("*.onnx",),
}
TOKENIZERS = ("tokenizer*.json", "vocab*", "*.model", "*.spm", "*.tiktoken", "merges.txt", "*.gguf")
HEADER = 100_000_000  # bytes: what safetensors itself takes
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack")
INDEX = "model.safetensors.index.json"
# Beside the weights, what an answer hangs on: configs, tokenizer, image or sound processor, template.
TOLD = (
    "config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "*.model", "*.spm", "*.tiktoken", "preprocessor_config.json", "processor_config.json",
    "chat_template*", "normalizer.json", INDEX,
)  # fmt: skip
NOTES = "moments.json"  # what `moments train` leaves in a model folder: the length it trained at


@dataclass(frozen=True)
class Model:
    """A checked local folder in the Hugging Face layout. Weights are opened by engines only."""

    path: Path
    config: dict[str, Any]
    trust_remote_code: bool = False
    source: str = ""
    known_digest: str = ""
    claimed_digest: str = ""  # an artefact's own word: good for telling models apart, not for what is kept of them
    notes: dict[str, Any] = field(default_factory=dict)
    crossed: bool = False  # of a linear model in a search: rows that it learnt from are answered as if it had not
    format: str = "transformers"  # transformers, gguf, ctranslate2, onnx, or remote (a server: source is its address)

    @property
    def name(self) -> str:
        return self.source or self.path.name

    @property
    def digest(self) -> str:
        """What tells this model from others: equal digests answer equally on the same engine."""
        return self.claimed_digest or self.files_digest

    @cached_property
    def files_digest(self) -> str:
        """sha256 of the config and of every file that is loaded, so that what is built of them is kept by it."""
        if self.known_digest:
            return self.known_digest
        digest = hashlib.sha256(json.dumps(["files", self.config], sort_keys=True).encode())
        told = {file for pattern in TOLD for file in self.path.glob(pattern) if file.is_file()}
        for file in [*self.weight_files, *sorted(told - set(self.weight_files))]:
            digest.update(f"\0{file.relative_to(self.path)}\0".encode("utf-8", "surrogateescape"))
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()[:32]

    @property
    def weight_files(self) -> list[Path]:
        """The files that the weights are loaded from, in a fixed order; none for a server's model."""
        if self.format == "transformers" and not (self.path / "model.safetensors").exists():
            if shards := shards_of(self.path):
                return shards
        elif self.format == "transformers":
            return [self.path / "model.safetensors"]
        return sorted(p for pattern in WEIGHTS.get(self.format, ()) for p in self.path.glob(pattern))

    @property
    def graph(self) -> Path | None:
        """The file of a model that came as a graph, and has no module that it could be made from."""
        return self.weight_files[0] if self.format == "onnx" else None

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
    def vectorizer(self) -> Vectorizer:
        """What makes a linear model's features."""
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
                from llm_moments.models.gguf_tokenizer import tokenizer_of

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
    def encoder(self) -> Encoder:
        """The tokenizer as it is used here, made once: probing its template takes a moment."""
        return Encoder(self.tokenizer, self.config)

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


def notes_of(path: Path) -> dict[str, Any]:
    """What `moments train` has left in a folder; nothing where it has not."""
    notes = _read_json(path / NOTES) if (path / NOTES).exists() else {}
    check(path / NOTES, notes)
    return notes


def checked_config(path: Path, trust_remote_code: bool, *, weights: bool = True) -> dict[str, Any]:
    """config.json of a folder that is safe to open. weights: whether there must be some."""
    if not (path / "config.json").exists():
        raise ModelError(f"{path} is not a model folder: it has no config.json")
    config = _read_json(path / "config.json")
    if (path / "adapter_config.json").exists():
        raise ModelError(
            f"{path} holds an adapter (adapter_config.json), whose weights belong to a model elsewhere. Merge them: "
            "PeftModel.from_pretrained(…).merge_and_unload().save_pretrained(…)"
        )
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        told = _read_json(path / name) if (path / name).exists() else {}
        check(path / name, told)
        if "auto_map" in told and not trust_remote_code:
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
        if weights and not list(path.glob("built/*/*")) and not shards_of(path):
            raise ModelError(f"{path} has no *.safetensors weights")
    check_sizes(path / "config.json", config, _tensors(path, shards_of(path)))
    return config


def shards_of(path: Path) -> list[Path]:
    """The files that an index of weights names; ModelError for one that is not in this folder."""
    if not (path / INDEX).exists():
        return []
    told = _read_json(path / INDEX)
    check(path / INDEX, told)
    names = sorted(set(told.get("weight_map", {}).values()))
    if strange := next((name for name in names if not _inside(path, name)), None):
        raise ModelError(
            f"{path / INDEX} names {strange!r:.120}, which is no file in this folder; refused. Copy the model whole from "
            "where it comes from"
        )
    return [path / name for name in names]


def _inside(path: Path, name: str) -> bool:
    """Whether it is a file in the folder, or in the store of the hub's cache that its links lead to."""
    if "\0" in name or "\\" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        return False
    here = path.resolve()
    roots = [here, *([here.parent.parent / "blobs"] if here.parent.name == "snapshots" else [])]
    try:
        return (path / name).is_file() and any((path / name).resolve().is_relative_to(root) for root in roots)
    except (OSError, RuntimeError):  # a loop of links, a name that is too long
        return False


def _tensors(path: Path, shards: list[Path]) -> int:
    """How many tensors the headers of the weights name; a header that cannot be read is told when it is loaded."""
    count = 0
    for file in [*shards, *path.glob("*.safetensors")]:
        try:
            with file.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                count += len(json.loads(stream.read(size))) if size < HEADER else 0
        except (OSError, ValueError, RecursionError):
            continue
    return count


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} should hold a JSON object")
    return value
