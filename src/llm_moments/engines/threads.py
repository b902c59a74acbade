"""How many threads torch computes with: a setting of the whole process, which all engines of it share."""

from __future__ import annotations

import os


def all_threads() -> int:
    """OMP_NUM_THREADS, if the user has set it; else every core this process may use."""
    from llm_moments.base.environment import usable_cores

    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else usable_cores()


def compute_with(threads: int) -> None:
    """0: all. Asked before each computation, since another engine may have set it."""
    import torch

    if torch.get_num_threads() != (threads or all_threads()):
        torch.set_num_threads(threads or all_threads())
