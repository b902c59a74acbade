"""How results are shown, by name: they are plain data, and what draws them is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

VIEWS = {
    "report": "html:report",
    "improvement": "notebook:improvement_html",
    "certificate": "notebook:certificate_html",
    "trials": "notebook:trials_html",
    "worths": "notebook:worths_html",
    "training": "notebook:training_html",
    "session": "notebook:session_html",
    "learning": "learning:fragment",
}


def drawn(view: str, *args: Any, **kwargs: Any) -> str:
    """HTML: a page (report), or a part of one for a notebook."""
    module, _, name = VIEWS[view].partition(":")
    return str(getattr(import_module(f"llm_moments.render.{module}"), name)(*args, **kwargs))
