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
INSIDE = 4  # parts of a part
TOKENS = 60  # of an answer, in a table
MORE = 1.0  # nats that two parts must take beyond what each takes alone
LEAST = 0.3  # nats of a token that are worth a word


def show(found: Explanation, console: Console) -> None:
    say(console, found.said)
    score = "" if found.score is None else f", probability {found.score:.3f}"
    say(console, f"answer: {found.answer}{score}; {speaks(found)}")
    table = table_of(
        f"what the answer loses without each of its {found.parts_are}",
        (plain(found.parts_are),),
        (plain(found.unit),),
        ("where",),
    )
    for name, worth, where in rows(found):
        table.add_row(plain(name), worth, plain(where))
    console.print(table)
    if found.tokens:
        table = table_of(
            "the answer, token by token", ("token",), ("probability", "entropy, nats"), ("rests on", "might have been")
        )
        for row in token_rows(found):
            table.add_row(*map(plain, row))
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


def rows(found: Explanation) -> Iterator[tuple[str, str, str]]:
    """The strongest parts, what was found inside each below it, and the question last."""
    asks = [part for part in found.parts if part.asks and part.worth is not None]
    for part in [*found.strongest(SHOWN), *asks]:
        yield from _rows(part, "")


def _rows(part: PartWorth, before: str) -> Iterator[tuple[str, str, str]]:
    said = f"{part.title}: {part.name}" if part.title else part.name
    where = place(part.place) + (" (the question)" if part.asks else "")
    yield before + said[:CUT].replace("\n", " "), f"{part.worth or 0.0:+.2f}", where
    inside = sorted((one for one in part.inside if one.worth is not None), key=lambda one: -(one.worth or 0.0))
    for one in inside[:INSIDE]:
        yield from _rows(one, f"{before}· ")


def token_rows(found: Explanation) -> Iterator[tuple[str, str, str, str, str]]:
    """Each token of the answer: what it is, how probable, how open the choice was, the part that it loses most by, and what
    might have stood there."""
    for token in found.tokens[:TOKENS]:
        known = {at: lost for at, lost in enumerate(token.loses) if lost is not None and not found.parts[at].asks}
        most = max(known, key=lambda at: known[at], default=None)
        rests = "" if most is None or known[most] < LEAST else f"{found.parts[most].called} {known[most]:+.2f}"
        others = ", ".join(f"{other.text!r} {other.probability:.2f}" for other in token.alternatives[:2])
        entropy = "" if token.entropy is None else f"{token.entropy:.2f}"
        yield repr(token.text), f"{token.probability:.3f}", entropy, rests, others


def lines(found: Explanation) -> Iterator[str]:
    """Everything that is no table, a sentence each."""
    test = found.test
    if found.faithful:
        yield found.faithful
    if test.orders:
        yield (
            f"held against chance: leaving out the first {', '.join(map(str, test.sizes))} of this order takes {test.lost:.2f} {found.unit}, "
            f"as many by chance {test.by_chance:.2f}; {test.better} of {test.orders} orders by chance took less"
        )
        first = found.strongest(1)
        if first and test.another:
            yield f"without “{first[0].name[:CUT]}”: {test.without_strongest}; without “{test.another[:CUT]}”: {test.without_another}"
    for pair in found.pairs:
        alone = [found.parts[at].worth or 0.0 for at in (pair.one, pair.other)]
        if pair.worth > sum(max(one, 0.0) for one in alone) + MORE:
            yield (
                f"{found.named((pair.one, pair.other))} together take {pair.worth:.2f} {found.unit}, more than alone "
                f"({alone[0]:.2f} and {alone[1]:.2f}): they say the same"
            )
    if found.without_all is not None:
        yield f"with the question alone the answer loses {found.without_all:.2f} {found.unit}"
    if found.against is not None:
        other = found.against
        yield f"{other.name} {'gives the same answer' if other.same else f'answers {other.answer}'}. {other.said}"
    if found.read:
        yield (
            f"{found.asked:,} times asked: {found.read:,} tokens read, {found.spared:,} not read again, since they began alike"
        )
    if found.keeps is not None and len(found.keeps) < len([part for part in found.parts if not part.asks]):
        yield f"enough for the answer: {found.named(found.keeps)}"
    if found.turns is not None:
        yield f"without {found.named(found.turns)} it is {found.turned}"
    if found.stage:
        yield found.stage
    for gone in found.unseen:
        yield f"never reached the model: {amount(gone.place, gone.name)} of {gone.place[0]}: “{gone.name[:CUT]}…”"
    if found.seen_all:
        yield f"with all of it: {found.seen_all}"
    for note in found.notes:
        yield f"note: {note}"


def amount(where: tuple[Any, ...], name: str) -> str:
    if where[0] == "audio":
        return f"{where[2] - where[1]:.2f} s from {where[1]:.2f} s on"
    if where[0] == "image":
        return f"{where[3] - where[1]:,} x {where[4] - where[2]:,} pixels from {where[1]:,}, {where[2]:,} on"
    return f"{len(name):,} characters from {where[1]:,} on"


def place(where: tuple[Any, ...]) -> str:
    """Where a part stands, in short."""
    if where[0] == "audio":
        return f"{where[1]:.1f} s to {where[2]:.1f} s"
    if str(where[0]).startswith("turn"):
        return f"{where[0]}, characters {where[1]} to {where[2]}"
    return " ".join(map(str, where))


def written(found: Explanation) -> list[tuple[str, str, str]]:
    """The texts of the input: the name of each in the parts' places, what is written over it, and the text."""
    given = found.input if isinstance(found.input, list) else [found.input]
    if all(isinstance(one, str) for one in given):
        return [(name, "", text) for name, text in zip(("text", "text_pair"), given, strict=False)]
    return [(f"turn {at}", f"turn {at}, {role}", text) for at, (role, text) in enumerate(given, 1)]


def marked(found: Explanation) -> str:
    """The input's texts with each part in the shade of its worth: the darker, the more the answer loses without it. Of a part
    that was taken apart, what is inside has its own shade."""
    leaves = [leaf for part in found.parts for leaf in (part.inside or (part,))]
    most = max((abs(part.worth or 0.0) for part in leaves), default=0.0) or 1.0
    told = []
    for name, head, text in written(found):
        inner, at = [], 0
        for part in (p for p in leaves if p.place[0] == name):
            _, start, end = part.place
            inner += [shown(text[at:start]), _shaded(part, text[start:end], most)]
            at = end
        over = f"<b>{shown(head)}</b><br>" if head else ""
        told.append(f'<p style="line-height:1.9;white-space:pre-wrap">{over}{"".join(inner)}{shown(text[at:])}</p>')
    return "".join(told)


def heat_map(found: Explanation) -> str:
    """The tokens of the answer along the top, the parts down the side: the darker, the more the token loses without it."""
    known = [at for at, part in enumerate(found.parts) if part.worth is not None]
    known = sorted(sorted(known, key=lambda at: -(found.parts[at].worth or 0.0))[:SHOWN])
    tokens = found.tokens[:TOKENS]
    most = max((abs(token.loses[at] or 0.0) for token in tokens for at in known if at < len(token.loses)), default=0.0)
    if not known or not most:
        return ""
    cell = "padding:2px 5px;border:1px solid #e3e7ec;white-space:pre"
    head = "".join(f'<th style="{cell}" title="{_token_title(token)}">{shown(token.text)}</th>' for token in tokens)
    sure = "".join(
        f'<td style="{cell};background:rgba(0,114,178,{0.7 * (1 - token.probability):.2f})">{token.probability:.2f}</td>'
        for token in tokens
    )
    body = []
    for at in known:
        part = found.parts[at]
        cells = "".join(_heat(token.loses[at], most, cell) for token in tokens)
        name = shown((f"{part.title}: {part.name}" if part.title else part.name)[:40])
        body.append(f'<tr><td style="{cell};max-width:18em;overflow:hidden">{name}</td>{cells}</tr>')
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;font-size:12px">'
        f'<tr><th style="{cell}"></th>{head}</tr><tr><td style="{cell}">probability</td>{sure}</tr>{"".join(body)}</table></div>'
    )


def _token_title(token: Any) -> str:
    others = ", ".join(f"{other.text} {other.probability:.3f}" for other in token.alternatives)
    return shown(f"probability {token.probability:.3f}; might have been: {others}")


def _heat(lost: float | None, most: float, cell: str) -> str:
    if lost is None:
        return f'<td style="{cell}"></td>'
    colour = "0,158,115" if lost > 0 else "213,94,0"
    return f'<td style="{cell};background:rgba({colour},{0.8 * abs(lost) / most:.2f})">{lost:+.1f}</td>'


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
        f'<div class="claim{" no" if found.test.orders and not found.test.holds else ""}"><h2>{shown(found.said)}</h2><p>{shown(_answer(found))}</p></div>',
    )
    if all(part.place[0].startswith(("text", "turn")) for part in found.parts):
        yield "What the answer rests on", marked(found) + _table(found) + _list(found)
    else:
        yield "What the answer rests on", _map(found) + _table(found) + _list(found)
    if found.tokens and (map_ := heat_map(found)):
        yield f"The answer's tokens, and what each loses without each of the {found.parts_are} ({found.unit})", map_
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
        return _timeline(found)
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


def _timeline(found: Explanation) -> str:
    """Seconds of a sound one after the other, in the shade of their worth."""
    spans = [(part, part.place[1], part.place[2]) for part in found.parts if part.place[0] == "audio"]
    most = max((abs(part.worth or 0.0) for part, _, _ in spans), default=0.0) or 1.0
    long = max((end for _, _, end in spans), default=1.0)
    drawn = []
    for part, start, end in spans:
        colour = "#009E73" if (part.worth or 0.0) > 0 else "#D55E00"
        drawn.append(
            f'<rect x="{800 * start / long:.1f}" y="0" width="{800 * (end - start) / long:.1f}" height="40" fill="{colour}" '
            f'fill-opacity="{0.9 * abs(part.worth or 0.0) / most:.2f}" stroke="#e3e7ec"><title>{shown(part.name)}: {part.worth or 0.0:+.2f}</title></rect>'
        )
    return f'<svg viewBox="0 0 800 40" style="width:100%;max-width:800px" role="img">{"".join(drawn)}</svg>'


def fragment(found: Explanation) -> str:
    return "".join(f"<h4>{shown(head)}</h4>{inner}" if head else inner for head, inner in sections(found))


def _answer(found: Explanation) -> str:
    score = "" if found.score is None else f" (probability {found.score:.3f})"
    return f"Answer: {found.answer}{score} — {speaks(found)}"


def speaks(found: Explanation) -> str:
    """How far the model speaks for the answer."""
    if found.tokens:
        return f"log-likelihood {found.support:.2f} {found.unit} over {len(found.tokens)} tokens"
    return f"the model speaks for it with {found.support:.2f} {found.unit}"


def _table(found: Explanation) -> str:
    return html_table((found.parts_are, f"lost without it, {found.unit}", "where"), list(rows(found)))


def _list(found: Explanation) -> str:
    return "<ul>" + "".join(f"<li>{shown(line)}</li>" for line in lines(found)) + "</ul>"
