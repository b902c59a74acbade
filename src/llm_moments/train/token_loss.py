"""The loss of models that make texts: cross-entropy of each next token that is to be learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.core import NULL, Recorder
from llm_moments.train.losses import Loss

IGNORED = -100  # the label of a token that is read, not learnt: of a prompt, of padding


class TokenLoss(Loss):
    """Mean over the tokens whose label is not IGNORED; labels are told in the batch, already shifted by one.

    width: how many of the first tokens an answer can be made of; None: all. A Marian's last one is padding, whose
    embedding is zeros for its decoder to start from, and must not learn through the output layer that it shares.
    Batches of one update count by their tokens (`weight`), so that an update's loss is the mean over its tokens.
    """

    reads = ("labels",)

    def __init__(self, label_smoothing: float = 0.0, width: int | None = None):
        self.label_smoothing, self.width = label_smoothing, width

    def __call__(self, outputs: Any, targets: Any, inputs: Any, recorder: Recorder = NULL) -> Any:
        from torch.nn import functional

        labels = inputs["labels"]
        learnt = labels != IGNORED
        return functional.cross_entropy(
            outputs.logits[learnt][:, : self.width].float(), labels[learnt], label_smoothing=self.label_smoothing
        )

    @property
    def options(self) -> Mapping[str, Any]:
        return {"use_cache": False}

    def weight(self, rows: Sequence[int] | np.ndarray, arrays: Mapping[str, np.ndarray]) -> int:
        return int((arrays["labels"] != IGNORED).sum())
