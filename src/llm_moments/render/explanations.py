"""Many explanations in one: on a terminal, on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from rich.console import Console

from llm_moments.explain.overview import Overview
from llm_moments.render.console import safe as plain
from llm_moments.render.console import say, table_of
from llm_moments.render.notebook import html_table, shown
from llm_moments.render.text import about, share

SHOWN = 12  # lines of a table on a terminal
CUT = 80


def show(found: Overview, console: Console) -> None:
    for line in lines(found):
        say(console, line)
    for title, heads, body in tables(found):
        table = table_of(title, [plain(heads[0])], [plain(head) for head in heads[1:]])
        for row in body[:SHOWN]:
            table.add_row(*map(plain, row))
        console.print(table)


def lines(found: Overview) -> Iterator[str]:
    """Everything that is no table, a sentence each."""
    yield f"{found.rows:,} rows of {found.data} explained: " + ", ".join(
        f"{count:,} {answer[:CUT]}" for answer, count in list(found.answers.items())[:SHOWN]
    )
    if found.tested:
        yield (
            f"the {found.parts_are} that are said to matter beat chance in {found.holds:,} of {found.tested:,} rows "
            f"({share(found.holds / found.tested)})"
        )
    yield f"one of the {found.parts_are} alone turns the answer in {found.alone:,} of {found.rows:,} rows"
    if found.cut:
        yield (
            f"something never reached the model in {found.cut:,} rows; with it the answer would be another one in "
            f"{found.cut_turned:,}"
        )
    for note in found.notes:
        yield f"note: {note}"


def tables(found: Overview) -> Iterator[tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]]:
    """(title, heads, rows) of all that there are."""
    lost = f"lost without it, {found.unit}"
    many = (("which field decides", "field", found.fields), ("where it stands", "place", found.places))
    for title, head, counts in many:
        if len(counts) > 1 or (counts and head == "place"):
            yield title, (head, "rows", "share"), [(k, f"{v:,}", share(v / found.rows)) for k, v in counts.items()]
    if found.words:
        body = [(one.name[:CUT], f"{one.rows:,}", f"{one.worth:+.2f}") for one in found.words]
        yield f"which of the {found.parts_are} decide", (found.parts_are, "rows", lost), body
    if found.layers:
        body = [(one.name, f"{one.worth:+.2f}", f"{one.rows:,}") for one in found.layers]
        yield "which layers decide", ("layer", lost, "rows it turns"), body


def sections(found: Overview, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Headings and what stands below them. rows: of `overview.row_of`, with `id` and, where there is one, `page`."""
    said = "".join(f"<li>{shown(line)}</li>" for line in lines(found))
    yield "What decides, over all rows", html_table(("", ""), about(found)) + f"<ul>{said}</ul>"
    for title, heads, body in tables(found):
        yield title[0].upper() + title[1:], html_table(heads, body)
    if rows:
        yield "Each row", _rows(found, rows)


def _rows(found: Overview, rows: Sequence[Mapping[str, Any]]) -> str:
    heads = ("row", "answer", "rests on", f"lost without it, {found.unit}", "beats chance", "in a sentence")
    body = []
    for row in rows:
        name = shown(row.get("id"))
        page = f'<a href="{quote(str(row["page"]), errors="surrogatepass")}">{name}</a>' if row.get("page") else name
        worth = "-" if row["worth"] is None else f"{row['worth']:+.2f}"
        told = (row["answer"], str(row["strongest"] or "-")[:CUT], worth, "yes" if row["holds"] else "no", row["said"])
        body.append(f"<tr><td>{page}</td>{''.join(f'<td>{shown(cell)}</td>' for cell in told)}</tr>")
    head = "".join(f'<th style="text-align:left">{shown(one)}</th>' for one in heads)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
