"""One answer opened up: on a terminal, in a notebook, on a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console

from llm_moments.explain.explanation import Explanation, PartWorth
from llm_moments.render.console import safe as plain
from llm_moments.render.console import say, show_session, table_of
from llm_moments.render.notebook import html_table, shown

SHOWN = 12  # parts, in a table
CUT = 80  # characters of a part


def show(found: Explanation, console: Console) -> None:
    say(console, found.said)
    score = "" if found.score is None else f", probability {found.score:.3f}"
    say(console, f"answer: {found.answer}{score}; the model speaks for it with {found.support:.2f} {found.unit}")
    table = table_of(
        f"what the answer loses without each of its {found.parts_are}",
        (plain(found.parts_are),),
        (plain(found.unit),),
        ("where",),
    )
    for part in found.strongest(SHOWN):
        table.add_row(plain(part.name[:CUT]), f"{part.worth:+.2f}", plain(place(part.place)))
    console.print(table)
    for line in lines(found):
        say(console, line)
    if found.layers:
        table = table_of(
            "what leaving out each layer does to this answer", ("layer",), (plain(found.unit),), ("answer then",)
        )
        for layer in found.layers:
            table.add_row(plain(layer.name), f"{layer.worth:+.2f}", plain(layer.answer))
        console.print(table)
    if found.others:
        table = table_of("under other plans", ("plan",), (plain(found.unit),), ("answer",))
        for other in found.others:
            table.add_row(
                plain(other.name),
                f"{other.worth:+.2f}",
                plain(f"{other.answer}{'' if other.same else '  (another one)'}"),
            )
        console.print(table)
    if found.session is not None:
        show_session(found.session, console, 1)


def lines(found: Explanation) -> Iterator[str]:
    """Everything that is no table, a sentence each."""
    test = found.test
    if test.orders:
        yield (
            f"held against chance: leaving out the first {', '.join(map(str, test.sizes))} of this order takes {test.lost:.2f} {found.unit}, "
            f"as many by chance {test.by_chance:.2f}; {test.better} of {test.orders} orders by chance took less"
        )
        first = found.strongest(1)
        if first:
            yield f"without “{first[0].name[:CUT]}”: {test.without_strongest}; without “{test.another[:CUT]}”: {test.without_another}"
    if found.keeps is not None:
        yield f"enough for the answer: {found.named(found.keeps)}"
    if found.turns is not None:
        yield f"without {found.named(found.turns)} it is {found.turned}"
    if found.stage:
        yield found.stage
    for gone in found.unseen:
        yield f"never reached the model: {len(gone.name):,} characters from {gone.place[1]:,} on of {gone.place[0]}: “{gone.name[:CUT]}…”"
    if found.seen_all:
        yield f"with all of it: {found.seen_all}"
    for note in found.notes:
        yield f"note: {note}"


def place(where: tuple[Any, ...]) -> str:
    """Where a part stands, in short."""
    return " ".join(map(str, where))


def marked(found: Explanation) -> str:
    """The input's texts with each part in the shade of its worth: the darker, the more the answer loses without it."""
    most = max((abs(part.worth or 0.0) for part in found.parts), default=0.0) or 1.0
    texts = found.input if isinstance(found.input, list) else [found.input]
    told = []
    for name, text in zip(("text", "text_pair"), texts, strict=False):
        inner, at = [], 0
        for part in (p for p in found.parts if p.place[0] == name):
            _, start, end = part.place
            inner += [shown(text[at:start]), _shaded(part, text[start:end], most)]
            at = end
        told.append(f'<p style="line-height:1.9;white-space:pre-wrap">{"".join(inner)}{shown(text[at:])}</p>')
    return "".join(told)


def _shaded(part: PartWorth, text: str, most: float) -> str:
    if not part.worth:
        return shown(text)
    colour = "0,158,115" if part.worth > 0 else "213,94,0"
    strength = min(abs(part.worth) / most, 1.0)
    return (
        f'<span title="{part.worth:+.3f}" style="background:rgba({colour},{0.75 * strength:.2f});border-radius:3px;padding:1px 0">'
        f"{shown(text)}</span>"
    )


def sections(found: Explanation) -> Iterator[tuple[str, str]]:
    """Headings and what stands below them, for a page."""
    yield (
        "",
        f'<div class="claim{"" if found.test.holds else " no"}"><h2>{shown(found.said)}</h2><p>{shown(_answer(found))}</p></div>',
    )
    if all(part.place[0] in ("text", "text_pair") for part in found.parts):
        yield "What the answer rests on", marked(found) + _table(found) + _list(found)
    else:
        yield "What the answer rests on", _map(found) + _table(found) + _list(found)
    if found.layers:
        body = [(layer.name, f"{layer.worth:+.2f}", layer.answer) for layer in found.layers]
        yield "What leaving out each layer does to it", html_table(("layer", found.unit, "answer then"), body)
    if found.others:
        told = [(o.name, f"{o.worth:+.2f}", o.answer, "" if o.same else "another one") for o in found.others]
        yield "Under other plans", html_table(("plan", found.unit, "answer", ""), told)


def _map(found: Explanation) -> str:
    """Patches of an image where they lie, in the shade of their worth."""
    boxes = [(part, part.place[1:]) for part in found.parts if part.place[0] == "image"]
    if not boxes:
        return ""
    most = max((abs(part.worth or 0.0) for part, _ in boxes), default=0.0) or 1.0
    wide, high = max(box[2] for _, box in boxes), max(box[3] for _, box in boxes)
    drawn = []
    for part, (left, top, right, bottom) in boxes:
        colour = "#009E73" if (part.worth or 0.0) > 0 else "#D55E00"
        drawn.append(
            f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="{colour}" '
            f'fill-opacity="{0.9 * abs(part.worth or 0.0) / most:.2f}" stroke="#e3e7ec" stroke-width="{wide / 400:.2f}">'
            f"<title>{shown(part.name)}: {part.worth or 0.0:+.3f}</title></rect>"
        )
    return f'<svg viewBox="0 0 {wide} {high}" style="width:320px;max-width:100%" role="img">{"".join(drawn)}</svg>'


def fragment(found: Explanation) -> str:
    return "".join(f"<h4>{shown(head)}</h4>{inner}" if head else inner for head, inner in sections(found))


def _answer(found: Explanation) -> str:
    score = "" if found.score is None else f" (probability {found.score:.3f})"
    return f"Answer: {found.answer}{score}. The model speaks for it with {found.support:.2f} {found.unit}."


def _table(found: Explanation) -> str:
    body = [(part.name[:CUT], f"{part.worth:+.2f}", place(part.place)) for part in found.strongest(SHOWN)]
    return html_table((found.parts_are, f"lost without it, {found.unit}", "where"), body)


def _list(found: Explanation) -> str:
    return "<ul>" + "".join(f"<li>{shown(line)}</li>" for line in lines(found)) + "</ul>"
