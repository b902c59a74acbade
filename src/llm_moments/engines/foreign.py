"""Other libraries: quiet while they work, and their failures told as errors of this one."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from llm_moments.base.errors import EngineError, MomentsError


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception from ")] or lines  # OpenVINO's own places
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters and quantisers talk on every channel; their failures are kept as reasons instead."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _stderr_quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _stderr_quiet() -> Iterator[None]:
    if os.environ.get("MOMENTS_DEBUG"):
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()):
        yield


@contextmanager
def failing_as(what: str) -> Iterator[None]:
    """Whatever a foreign engine raises becomes an EngineError with its first line as the reason."""
    try:
        yield
    except (MomentsError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise EngineError(f"{what}: {first_line(error)}") from error
