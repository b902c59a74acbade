"""llama.cpp's context at its C level: tokens of several sequences in, logits out, keys and values kept."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError

BATCH = 512  # tokens of one llama_decode
TYPES = {"fp32": 0, "fp16": 1, "bf16": 30, "int8": 8, "int4": 2}  # GGML_TYPE_F32, _F16, _BF16, _Q8_0, _Q4_0
SAID: list[str] = []  # what llama.cpp said at its error level; the first line has the cause
ERROR = 4


@dataclass(frozen=True)
class Piece:
    """Tokens that one sequence goes on with, from position `at`; logits of its last `told` tokens are wanted."""

    sequence: int
    at: int
    tokens: Sequence[int]
    told: int = 0


class LlamaModel:
    """An opened .gguf file."""

    def __init__(self, file: Path):
        import llama_cpp

        _listen()
        SAID.clear()
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self.api, self.pointer = llama_cpp, llama_cpp.llama_model_load_from_file(str(file).encode(), options)
        if not self.pointer:
            raise EngineError(f"llama.cpp cannot load {file.name}: {SAID[0] if SAID else 'it gives no reason'}")
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.pointer)
        self.size = int(llama_cpp.llama_vocab_n_tokens(self.vocabulary))

    def ends(self, token: int) -> bool:
        return bool(self.api.llama_vocab_is_eog(self.vocabulary, token))

    def close(self) -> None:
        if self.pointer:
            self.api.llama_model_free(self.pointer)
            self.pointer = None


class LlamaContext:
    """Keys and values of `sequences` sequences with room for so many tokens in all."""

    def __init__(self, model: LlamaModel, room: int, sequences: int, settings: Mapping[str, Any]):
        api = self.api = model.api
        self.model, self.room = model, room
        options = api.llama_context_default_params()
        options.n_ctx, options.n_seq_max, options.kv_unified = room, sequences, True
        options.n_batch = options.n_ubatch = min(BATCH, room)
        options.no_perf = True
        if threads := int(settings.get("threads") or _cores()):
            options.n_threads = options.n_threads_batch = threads
        if kept := settings.get("kv_precision"):
            options.type_k = options.type_v = TYPES[kept]
            if kept in ("int8", "int4"):
                options.flash_attn_type = 1  # values in few bits are read by that kernel only
        SAID.clear()
        self.pointer = api.llama_init_from_model(model.pointer, options)
        if not self.pointer:
            raise EngineError(f"llama.cpp has no context of {room} tokens: {SAID[0] if SAID else 'no memory'}")
        self.memory = api.llama_get_memory(self.pointer)
        self.most = int(options.n_batch)
        self.batch = api.llama_batch_init(self.most, 0, 1)

    def read(self, pieces: Sequence[Piece]) -> list[np.ndarray]:
        """float32 [told, vocabulary] for each piece, views that are good until the next call; at most `most` tokens."""
        batch, row, wanted = self.batch, 0, []
        for piece in pieces:
            first = len(piece.tokens) - piece.told
            for at, token in enumerate(piece.tokens):
                batch.token[row], batch.pos[row] = token, piece.at + at
                batch.n_seq_id[row], batch.seq_id[row][0], batch.logits[row] = 1, piece.sequence, at >= first
                row += 1
            wanted.append(range(row - piece.told, row))
        batch.n_tokens = row
        failed = self.api.llama_decode(self.pointer, batch)
        if failed:
            why = "there is no room for more keys and values" if failed == 1 else SAID[0] if SAID else "no reason given"
            raise EngineError(f"llama.cpp could not read {row} tokens ({failed}): {why}")
        return [self._logits(rows) for rows in wanted]

    def _logits(self, rows: range) -> np.ndarray:
        size = self.model.size
        if not rows:
            return np.empty((0, size), np.float32)
        first = self.api.llama_get_logits_ith(self.pointer, rows[0])
        if len(rows) == 1:
            return np.ctypeslib.as_array(first, (1, size))
        told = [self.api.llama_get_logits_ith(self.pointer, row) for row in rows]
        return np.stack([np.ctypeslib.as_array(one, (size,)) for one in told])

    def forget(self, sequence: int, start: int = 0) -> None:
        """Drops the tokens of a sequence from that position on."""
        self.api.llama_memory_seq_rm(self.memory, sequence, start, -1)

    def clear(self) -> None:
        """Drops the tokens of all sequences."""
        self.api.llama_memory_clear(self.memory, False)

    def copy(self, sequence: int, to: int, length: int) -> None:
        """Lets another sequence begin with the same tokens; both then share their keys and values."""
        self.api.llama_memory_seq_rm(self.memory, to, -1, -1)
        self.api.llama_memory_seq_cp(self.memory, sequence, to, 0, length)

    def close(self) -> None:
        if self.pointer:
            self.api.llama_batch_free(self.batch)
            self.api.llama_free(self.pointer)
            self.pointer = None


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _listen() -> None:
    """llama.cpp writes pages to stderr; its errors are kept as reasons instead."""
    import llama_cpp

    global _callback

    def hear(level: int, text: bytes, data: Any) -> None:
        if level == ERROR:
            SAID.append(text.decode("utf-8", "replace").strip())
            del SAID[5:]

    _callback = llama_cpp.llama_log_callback(hear)
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))


_callback: Any = None  # held here: C keeps only its address
