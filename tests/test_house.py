"""The order of rooms: imports go down only, and there is no circle. What does not keep to it yet is listed, and the list
may only shrink."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import llm_moments
from llm_moments.base.views import VIEWS

ROOT = Path(llm_moments.__file__).parent
# From the ground up. A room's files may import one another and what is below.
ROOMS = (
    "stats", "base", "core", "data", "models", "engines", "steps", "tasks", "assembly", "evaluate", "record", "train", "weigh",
    "improve", "explain", "render", "integrations", "cli", "house",
)  # fmt: skip
# Files that lie beside the rooms: what the package offers by name.
BELONGS = {"_verb": "base", "version": "base", "errors": "house", "": "house"}
# Arrows that go up today: by file, the rooms.
EXCEPTIONS: dict[str, set[str]] = {}


# Files that import one another today.
CIRCLES: set[frozenset[str]] = set()


@cache
def modules() -> dict[str, Path]:
    """Every module by its name below the package; the package itself is empty."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(p for p in parts if p != "__init__")] = path
    return found


def room(module: str) -> str:
    first = module.partition(".")[0]
    return BELONGS.get(first, first)


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, within functions, too."""
    known = modules()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if _own(name) in known else node.module for name in names]
        yield from (_own(name) for name in names if name.split(".")[0] == "llm_moments" and _own(name) in known)


def _own(name: str) -> str:
    return name.removeprefix("llm_moments").removeprefix(".")


@cache
def upwards() -> dict[str, set[str]]:
    """For each file the rooms above its own that it imports from."""
    found: dict[str, set[str]] = {}
    for module, path in modules().items():
        for other in imported(path):
            if ROOMS.index(room(other)) > ROOMS.index(room(module)):
                found.setdefault(module, set()).add(room(other))
    return found


def test_every_file_has_a_room() -> None:
    assert not {module for module in modules() if room(module) not in ROOMS}


def test_imports_go_down_only() -> None:
    assert upwards() == EXCEPTIONS


def circles() -> set[frozenset[str]]:
    """Files that import one another, by whatever way round (Tarjan's strongly connected components)."""
    arrows = {module: set(imported(path)) - {module} for module, path in modules().items()}
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        path.append(module)
        for other in sorted(arrows[module]):
            if other not in number:
                visit(other)
            if other in path:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == number[module]:
            at = path.index(module)
            if len(path) - at > 1:
                found.add(frozenset(path[at:]))
            del path[at:]

    for module in sorted(arrows):
        if module not in number:
            visit(module)
    return found


def test_there_is_no_circle() -> None:
    assert circles() == CIRCLES


def test_benchmarks_and_scripts_import_what_is_there() -> None:
    """They are run by hand and seldom: a name that has moved would be found late."""
    for path in [p for folder in ("benchmarks", "scripts") for p in (ROOT.parents[1] / folder).glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "llm_moments":
                for alias in node.names:
                    there = hasattr(import_module(node.module or ""), alias.name)
                    assert there or import_module(f"{node.module}.{alias.name}"), path


def test_every_view_is_there() -> None:
    for place in VIEWS.values():
        module, _, name = place.partition(":")
        assert callable(getattr(import_module(f"llm_moments.render.{module}"), name))


def test_no_file_is_long() -> None:
    long = {module: lines for module, path in modules().items() if (lines := path.read_text("utf-8").count("\n")) > 400}
    assert not long


def test_nobody_asks_whether_a_task_an_engine_or_a_loss_can_do_something() -> None:
    """What they can do is in their contracts, with a plain default."""
    probe = re.compile(r"(?:hasattr|getattr)\((?:\w+\.)*(?:task|engine|loss|step)\b,")
    assert not [(module, m[0]) for module, path in modules().items() for m in probe.finditer(path.read_text("utf-8"))]


def test_nothing_is_pickled_and_no_array_holds_objects() -> None:
    wrong = re.compile(r"import pickle|allow_pickle=True|dtype=object|dtype=\"object\"|, object\)")
    assert not [(module, m[0]) for module, path in modules().items() for m in wrong.finditer(path.read_text("utf-8"))]
