"""What a smaller model can begin as, each in one file."""

from __future__ import annotations

from llm_moments.base.registry import resolve
from llm_moments.core import Pipeline
from llm_moments.train.students.contract import Student

# In this order they are asked whether a word such as `layers=half` is theirs; the last one takes whatever is left.
STUDENTS = {"kept": "kept:Kept", "width": "width:Narrower", "cnn": "cnn:Fresh", "folder": "folder:Other"}


def student_for(base: Pipeline, word: str) -> Student:
    """InputError for what no student can be made of."""
    for place in STUDENTS.values():
        kind = resolve(place, "train.students")
        if kind.takes(word):
            found: Student = kind(base, word)
            return found
    raise AssertionError("the last kind takes every word")
