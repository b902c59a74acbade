"""How results are shown, by name: they are plain data, and what draws them is loaded when it is asked for."""

from __future__ import annotations

from typing import Any

from llm_moments.base.registry import resolve

VIEWS = {
    "report": "html:report",
    "improvement": "notebook:improvement_html",
    "certificate": "notebook:certificate_html",
    "trials": "notebook:trials_html",
    "worths": "notebook:worths_html",
    "training": "notebook:training_html",
    "session": "notebook:session_html",
    "learning": "learning:fragment",
    "explanation": "explanation:fragment",
}


def drawn(view: str, *args: Any, **kwargs: Any) -> str:
    """HTML: a page (report), or a part of one for a notebook."""
    return str(resolve(VIEWS[view], "render")(*args, **kwargs))
