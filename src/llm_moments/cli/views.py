"""The views of a result that a verb was asked for, written after the result itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm_moments.base.errors import MomentsError, WriteError


def write_views(
    *, html: Path | None = None, trace: Path | None = None, tensorboard: Path | None = None, csv: Path | None = None,
    parquet: Path | None = None, **results: Any,
) -> None:  # fmt: skip
    """results: session, worths, study, certificate, training, learning, faster, explanation. One that fails keeps no other from
    being written; then WriteError with all that could not be."""
    wanted = ((html, _html), (trace, _trace), (tensorboard, _tensorboard), (csv, _csv), (parquet, _parquet))
    failed = [why for place, write in wanted if place is not None and (why := _why_not(place, write, results))]
    if failed:
        raise WriteError("; ".join(failed) + ". The result itself is not lost; `moments show` writes its views again.")


def _why_not(place: Path, write: Callable[[Path, dict[str, Any]], None], results: dict[str, Any]) -> str:
    try:
        write(place, results)
    except (OSError, MomentsError) as error:
        said = str(error).rstrip(".")
        return said if str(place) in said else f"{place} could not be written: {said}"
    return ""


def _html(place: Path, results: dict[str, Any]) -> None:
    from llm_moments.base.atomic import write_atomic
    from llm_moments.render.html import report

    write_atomic(place, report(**results))


def _trace(place: Path, results: dict[str, Any]) -> None:
    from llm_moments.base.atomic import write_atomic
    from llm_moments.data.tables import to_json
    from llm_moments.render.chrome_trace import chrome_trace

    write_atomic(place, to_json(chrome_trace(results["session"])))


def _tensorboard(place: Path, results: dict[str, Any]) -> None:
    from llm_moments.render import learning, tensorboard

    known = ("session", "worths", "study", "certificate")
    if not any(results.get(name) is not None for name in (*known, "learning")):
        raise MomentsError(f"there are no scalars in {' and '.join(results) or 'nothing'}")
    tensorboard.write(place, **{name: results[name] for name in known if name in results})
    if results.get("learning") is not None:
        learning.write_scalars(place, results["learning"])


def _csv(place: Path, results: dict[str, Any]) -> None:
    from llm_moments.render.table import rows, write_csv

    write_csv(rows(_table(results)), place)


def _parquet(place: Path, results: dict[str, Any]) -> None:
    from llm_moments.render.table import rows, write_parquet

    write_parquet(rows(_table(results)), place)


def _table(results: dict[str, Any]) -> Any:
    """The one that is a table; MomentsError where there is none, as of a certificate alone."""
    found = next(_tables(results), None)
    if found is None:
        raise MomentsError(f"there is no table in {' and '.join(results) or 'nothing'}")
    return found


def _tables(results: dict[str, Any]) -> Iterator[Any]:
    yield from (results[name] for name in ("session", "worths", "study") if results.get(name) is not None)
    if results.get("learning") is not None:
        yield results["learning"].worths
