"""Models that are no Hugging Face folder: GGUF and ONNX files, CTranslate2 folders, servers."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llm_moments.base.errors import ModelError
from llm_moments.models.gguf_header import BLOCKS, read_header, text_of, whole_number
from llm_moments.models.model import Model, _read_json
from llm_moments.models.onnx_file import onnx_file

FILES = (".gguf", ".onnx")  # kinds of files that are a model each


def folder(path: Path, source: str) -> Model | None:
    """The model in a folder of one of these formats, None if it is none of them."""
    if (path / "config.json").exists() and (path / "model.bin").is_file() and _is_ctranslate2(path / "model.bin"):
        return ctranslate2(path, source)
    if not path.is_dir() or list(path.glob("*.safetensors")):
        return None
    for suffix in FILES:
        files = sorted(path.glob(f"*{suffix}"))
        if files and (suffix == ".gguf" or not (path / "config.json").exists()):
            if len(files) > 1:
                raise ModelError(f"{path} holds {len(files)} {suffix} files; name the one that is meant")
            return alone(files[0], source)
    return None


def alone(file: Path, source: str) -> Model:
    """The model that is one file."""
    return gguf(file, source) if file.suffix == ".gguf" else onnx_file(file, source, _alone(file))


def gguf(file: Path, source: str) -> Model:
    """A GGUF file; ModelError for one that is cut, or of an architecture without a decoder-only model."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{file} is no GGUF file (it does not begin with GGUF)")
    try:
        fields, tensors = read_header(file)
        config = _config(fields)
    except (ValueError, KeyError, OverflowError, struct.error) as error:
        raise ModelError(f"{file} is no whole GGUF file: {error!s:.120}. Copy it again.") from error
    if strange := [t for t in tensors if t.kind not in BLOCKS]:
        raise ModelError(
            f"{file} holds weights of a type that is not known here ({strange[0].name} is of type {strange[0].kind}); "
            "quantise the model to a known one, such as Q4_K or Q8_0"
        )
    end = max((t.end for t in tensors), default=0)
    if not tensors or end > file.stat().st_size:
        raise ModelError(f"{file} is cut: its tensors end at byte {end:,} of {file.stat().st_size:,}. Copy it again.")
    return Model(_alone(file), config, source=source, format="gguf")


def _alone(file: Path) -> Path:
    """The folder of the file; a folder of links where others lie beside it, so that a folder means one model."""
    if len(list(file.parent.glob(f"*{file.suffix}"))) == 1:
        return file.parent
    import hashlib

    from llm_moments.base.cache import cache_folder

    kept = cache_folder() / file.suffix[1:] / hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True)
    link = kept / file.name
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())
    return kept


def _config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the rest of the house reads of a config.json, from the file's own header."""
    kind = text_of(fields, "general.architecture")
    if not kind or f"{kind}.block_count" not in fields:
        raise ModelError(f"a GGUF file of the architecture {kind or 'unknown'!r} is no language model")
    return {
        "model_type": kind,
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "max_position_embeddings": whole_number(fields, f"{kind}.context_length", 2048, 1, 1 << 30),
        "num_hidden_layers": whole_number(fields, f"{kind}.block_count", None, 1, 100_000),
        "hidden_size": whole_number(fields, f"{kind}.embedding_length", 0, 0, 1 << 24),
        "name": text_of(fields, "general.name"),
    }


def _is_ctranslate2(file: Path) -> bool:
    """CTranslate2's own format begins with a small version number and the name of a spec; a pickle does not."""
    with file.open("rb") as stream:
        head = stream.read(64)
    return len(head) > 8 and head[:4] in (b"\x05\0\0\0", b"\x06\0\0\0", b"\x07\0\0\0") and b"Spec" in head


def ctranslate2(path: Path, source: str) -> Model:
    config = _read_json(path / "config.json")
    with (path / "model.bin").open("rb") as stream:
        head = stream.read(64)
    spec = head[6 : 6 + int.from_bytes(head[4:6], "little")].split(b"\0")[0].decode("ascii", "replace")
    names = {"WhisperSpec": "WhisperForConditionalGeneration", "TransformerSpec": "MarianMTModel"}
    if spec not in names:
        raise ModelError(f"{path} is a CTranslate2 model of the kind {spec!r}; known are {', '.join(names)}")
    return Model(path, {**config, "architectures": [names[spec]], "spec": spec}, source=source, format="ctranslate2")


def remote(address: str) -> Model:
    """A model behind an OpenAI-compatible server: its address, and after a # the name the server knows it by."""
    parts = urlsplit(address)
    if parts.query:
        raise ModelError("an address of a server takes no ?query; a key belongs into the environment, MOMENTS_API_KEY")
    if not parts.hostname or parts.username or parts.password:
        raise ModelError(f"{address} is no address of a server such as http://127.0.0.1:8080/v1#model-name")
    config = {"architectures": ["RemoteForCausalLM"], "name": parts.fragment, "address": address.partition("#")[0]}
    return Model(Path("."), config, source=address, format="remote", known_digest=_digest(config))


def _digest(config: Mapping[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode()).hexdigest()[:32]
