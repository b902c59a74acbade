"""Facts of a .gguf header that are not what they should be: each is refused with the file, the fact and its value."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from llm_moments.base.errors import ModelError
from llm_moments.models.open import open_model


def text(said: str) -> bytes:
    return struct.pack("<Q", len(said.encode())) + said.encode()


def number(value: int) -> bytes:
    return struct.pack("<II", 4, value)


def real(value: float) -> bytes:
    return struct.pack("<If", 6, value)


def string(value: str) -> bytes:
    return struct.pack("<I", 8) + text(value)


def listed(kind: int, count: int, body: bytes) -> bytes:
    return struct.pack("<IIQ", 9, kind, count) + body


def write(file: Path, tensors: int = 1, facts: int | None = None, **told: bytes) -> Path:
    """One tensor of 32 floats, and these facts beside those that a model needs; `__` in a name is a dot."""
    found = {
        "general.architecture": string("llama"),
        "llama.block_count": number(2),
        "llama.context_length": number(64),
    }
    found |= {name.replace("__", "."): value for name, value in told.items()}
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(found) if facts is None else facts)
    head += b"".join(text(name) + value for name, value in found.items())
    head += text("output.weight") + struct.pack("<IQIQ", 1, 32, 0, 0)
    file.write_bytes(head + b"\0" * (-len(head) % 32) + b"\0" * 256)
    return file


def nested(depth: int) -> bytes:
    return struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 4, 0)


BAD = {
    "half": ({"general__alignment": real(0.5)}, "general.alignment"),
    "zero": ({"general__alignment": number(0)}, "general.alignment"),
    "said": ({"general__alignment": string("32")}, "general.alignment"),
    "deep": ({"a": nested(5000)}, "lists in lists"),
    "blocks text": ({"llama__block_count": string("two")}, "llama.block_count"),
    "blocks list": ({"llama__block_count": listed(4, 2, struct.pack("<II", 2, 2))}, "llama.block_count"),
    "blocks long list": ({"llama__block_count": listed(0, 300, b"\1" * 300)}, "llama.block_count"),
    "blocks inf": ({"llama__block_count": real(float("inf"))}, "llama.block_count"),
    "blocks many": ({"llama__block_count": number(2**32 - 1)}, "llama.block_count"),
    "blocks yes": ({"llama__block_count": struct.pack("<I?", 7, True)}, "llama.block_count"),
    "context nan": ({"llama__context_length": real(float("nan"))}, "llama.context_length"),
    "width": ({"llama__embedding_length": real(1.5)}, "llama.embedding_length"),
    "kind": ({"general__architecture": number(7)}, "general.architecture"),
    "name": ({"general__name": listed(8, 1, text("x"))}, "general.name"),
    "type": ({"a": struct.pack("<II", 77, 1)}, "unknown type 77"),
    "long list": ({"a": listed(4, 2**60, b"")}, "longer than the file"),
    "long text": ({"a": struct.pack("<IQ", 8, 2**60)}, "longer than the file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_fact_that_is_no_such_thing_is_refused(tmp_path: Path, kind: str) -> None:
    facts, said = BAD[kind]
    with pytest.raises(ModelError, match=r"a\.gguf .*" + said.replace(".", r"\.")):
        open_model(write(tmp_path / "a.gguf", **facts))


@pytest.mark.parametrize("counts", [{"tensors": 2**63}, {"facts": 2**63}, {"tensors": 50}, {"facts": 40}])
def test_counts_that_the_file_cannot_hold_are_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(ModelError, match=r"a\.gguf"):
        open_model(write(tmp_path / "a.gguf", **counts))


def test_the_plain_one_is_taken(tmp_path: Path) -> None:
    assert open_model(write(tmp_path / "a.gguf")).config["num_hidden_layers"] == 2
    assert open_model(write(tmp_path / "a.gguf", general__alignment=number(64))).format == "gguf"
