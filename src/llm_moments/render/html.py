"""One HTML page that holds everything, and asks nothing of any other place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_moments.render import charts, text, worth_charts
from llm_moments.render.notebook import (
    about_html,
    figures_html,
    html_table,
    notes_html,
    shown,
    steps_html,
    trials_html,
    worths_html,
)
from llm_moments.render.text import PLOTS_MISSING, epochs, label, number, percent, plan_in_short, value

# The browser itself refuses whatever is not in the page.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = """
:root{color-scheme:light;--ink:#1c2430;--faint:#5a6675;--line:#e3e7ec}
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;max-width:1160px;margin:2rem auto 4rem;padding:0 1.5rem;color:var(--ink);background:#fff}
h1{font-size:1.35rem;font-weight:600;margin:0 0 1rem;overflow-wrap:anywhere}h2{font-size:1.2rem;margin:2.8rem 0 .5rem;padding-top:.9rem;border-top:1px solid var(--line)}
table{border-collapse:collapse;font-size:13px;margin:.6rem 0}th{color:var(--faint);font-weight:600}tbody tr:hover{background:#f6f8fa}
th,td{padding:.3rem .75rem;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums;vertical-align:top;white-space:nowrap}
th:first-child,td:first-child{padding-left:.2rem}td:last-child,.free td{white-space:normal;overflow-wrap:anywhere}.wide{overflow-x:auto}
.claim{border-left:6px solid #009E73;background:#f0f8f5;padding:1.1rem 1.5rem;border-radius:6px}.claim.no{border-color:#D55E00;background:#fdf3ec}
.claim h2{all:unset;display:block;font-size:1.4rem;line-height:1.3;text-wrap:balance;font-weight:650}.claim p{margin:.8rem 0 0;max-width:62rem}
.big{display:flex;flex-wrap:wrap;gap:.6rem 3rem;margin:1rem 0 .3rem}.big b{display:block;font-size:1.8rem;line-height:1.25}.big span,.note,summary{color:var(--faint);font-size:13px}
.changed td{font-weight:600}.changed td:last-child{background:#eef6fb}.same td{color:var(--faint)}
details{margin:.5rem 0}summary{cursor:pointer}li{margin:.2rem 0}
@media print{@page{margin:12mm}body{margin:0;max-width:none;font-size:12px}details::details-content{display:block;content-visibility:visible}.wide{overflow:visible}.claim,.js-plotly-plot,tr{break-inside:avoid}h2{break-after:avoid}}
"""


def report(
    *, session: Any = None, after: Any = None, worths: Any = None, study: Sequence[Any] | None = None, certificate: Any = None,
    training: Any = None, learning: Any = None, faster: Any = None, explanation: Any = None, overview: Any = None, explained: Sequence[Mapping[str, Any]] = (), elsewhere: Sequence[Mapping[str, Any]] = (), nearly: str = "",
    title: str = "llm-moments",
) -> str:  # fmt: skip
    """The page, from whatever results are given. after: the session of the improved plan; learning and faster: of weigh
    and of tune; explanation: of explain; overview and explained: of explain over data."""
    draw = _Pictures()
    parts = []
    if training is not None and title == "llm-moments":
        title = f"llm-moments: training {training.folder.name}"
    if certificate is not None:
        parts += [_claim(certificate), _section("Before and after", draw(charts.before_after, certificate))]
    if study:
        parts.append(_section("Every plan that was tried", draw(charts.front, study, certificate), _trials(study)))
    if elsewhere or nearly:
        parts.append(_section("What else could be had", _elsewhere(elsewhere, nearly)))
    if training is not None:
        parts.append(_section("How it learnt", draw(charts.curves, training), _learnt(training)))
    if explanation is not None:
        from llm_moments.render import explanation as opened

        parts += [_section(head, inner) if head else inner for head, inner in opened.sections(explanation)]
        session = explanation.session if session is None else session
    if overview is not None:
        from llm_moments.render import explanations

        parts += [_section(head, inner) for head, inner in explanations.sections(overview, explained)]
    if faster is not None:
        from llm_moments.render import training_certificate as view

        parts += [_section(head, inner) if head else inner for head, inner in view.sections(faster, draw)]
    if learning is not None:
        from llm_moments.render.learning import sections

        parts += [_section(head, inner) for head, inner in sections(learning, draw)]
    if session is not None:
        head = "Where the time goes" if after is None else "Where the time went in the baseline"
        parts.append(_steps(head, session, draw))
    if after is not None:
        parts.append(_steps("Where it goes now", after, draw))
    if worths is not None:
        head = "What each change would save and lose" if certificate is None else "What each choice of the plan brings"
        parts.append(_worths(head, worths, draw, certificate is not None))
    if certificate is not None:
        parts += [
            _section("The plan, before and after", _plans(certificate)),
            _section("The certificate", _facts(certificate)),
        ]
    about = certificate if certificate is not None else session
    if about is not None and about.environment:
        rows = [(k, value(v)) for k, v in about.environment.items()]
        parts.append(_section("Measured on", _free(html_table(("", ""), rows))))
    body = "".join(parts) or '<p class="note">There is nothing to show yet.</p>'
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'
        f'<meta name="viewport" content="width=device-width"><title>{shown(title)}</title><style>{STYLE}</style>'
        f"{draw.script()}</head><body><h1>{shown(title)}</h1>{draw.missing()}{body}</body></html>"
    )


class _Pictures:
    """Draws charts; plotly's script is put in the page once, and only if there is a picture."""

    def __init__(self) -> None:
        try:
            import plotly  # noqa: F401
        except ImportError:
            self.plotly = False
        else:
            self.plotly = True
        self.used = 0

    def __call__(self, chart: Any, *results: Any) -> str:
        figure = chart(*results) if self.plotly else None
        if figure is None:
            return ""
        self.used += 1
        config = {"displaylogo": False, "displayModeBar": False, "responsive": True}
        return str(figure.to_html(
            full_html=False, include_plotlyjs=False, include_mathjax=False, config=config, div_id=f"picture{self.used}",
        ))  # fmt: skip

    def script(self) -> str:
        if not self.used:
            return ""
        from plotly.offline import get_plotlyjs

        return f"<script>{get_plotlyjs()}</script>"

    def missing(self) -> str:
        return "" if self.plotly else f'<p class="note">{PLOTS_MISSING}</p>'


def _section(head: str, *parts: str) -> str:
    inner = "".join(parts)
    return f"<section><h2>{shown(head)}</h2>{inner}</section>" if inner else ""


def _wide(table: str) -> str:
    return f'<div class="wide">{table}</div>'


def _free(table: str) -> str:
    return f'<div class="free">{table}</div>'


def _folded(summary: str, inner: str, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{shown(summary)}</summary>{inner}</details>"


def _claim(c: Any) -> str:
    figures = (
        (number(c.speedup, ".1f", "×"), f"{c.objective}, times the baseline"),
        (number(c.speedup_low, ".1f", "×"), f"at least, with {c.confidence:.0%} confidence"),
        (number(percent(c.drop), "+.2f"), f"points of {c.metric} lost, measured"),
        (number(percent(c.drop_high), "+.2f"), f"points lost at most (budget {c.max_drop * 100:g})"),
    )
    big = "".join(f"<div><b>{shown(v)}</b><span>{shown(said)}</span></div>" for v, said in figures if v != "-")
    kind, head = ("", _headline(c)) if c.certified else (" no", "Not certified: the baseline is kept")
    return f'<div class="claim{kind}"><h2>{shown(head)}</h2><div class="big">{big}</div><p>{shown(c.words())}</p></div>'


def _headline(c: Any) -> str:
    lost = f"less than {c.max_drop * 100:g} point{'' if c.max_drop == 0.01 else 's'} of {c.metric} lost"
    if c.speedup_low is None:
        return f"Certified: {lost}"
    return f"Certified: {c.objective} at least {c.speedup_low:.1f} times better, {lost}"


def _trials(study: Sequence[Any]) -> str:
    good = sorted((t for t in study if t.status == "ok"), key=lambda t: (t.gain is None, -(t.gain or 0)))
    bad = [(plan_in_short(t.plan), t.stage, t.reason or t.status) for t in study if t.status not in ("ok", "held out")]
    parts = []
    if any(t.drop is not None for t in good):
        parts.append('<p class="note">An open triangle at the upper edge lost more than the picture shows.</p>')
    parts.append(_folded(f"{len(good)} plans measured", _wide(trials_html(good)), len(good) <= 12))
    if bad:
        table = _free(html_table(("plan", "stage", "reason"), bad))
        parts.append(_folded(f"{len(bad)} plans not available, and why", table, len(bad) <= 8))
    return "".join(parts)


def _elsewhere(rows: Sequence[Mapping[str, Any]], nearly: str) -> str:
    said = f"<p>{shown(nearly)}</p>" if nearly else ""
    if not rows:
        return said
    note = '<p class="note">As the search split lets expect, not certified; the examples are all that the file would need.</p>'
    cells = [
        (f"{one['max_drop']:g}", number(one["speedup"], ".1f", "×"), f"{one['rows']:,}", "yes" if one["enough"] else "no",
         plan_in_short(one["plan"]))
        for one in rows
    ]  # fmt: skip
    heads = ("drop below", "times the baseline", "examples that would prove it", "enough here", "plan")
    commands = "\n".join(shown(one["command"]) for one in rows)
    how = f'<p class="note">To have one of them certified:</p>{_wide(f"<pre>{commands}</pre>")}'
    return said + note + _wide(html_table(heads, cells)) + how


def _steps(head: str, session: Any, draw: _Pictures) -> str:
    count = sum(1 for _ in session.root.walk())
    table = _folded(f"all {count} steps in figures", _wide(steps_html(session)), count <= 16 or not draw.plotly)
    said = _free(html_table(("", ""), text.about_session(session)))
    return _section(
        head, said, draw(charts.waterfall, session), figures_html(session), notes_html(session.notes), table
    )


def _worths(head: str, worths: Any, draw: _Pictures, of_plan: bool) -> str:
    if not worths:
        return _section(head, '<p class="note">No change was weighed.</p>')
    shown = sum(w.saving is not None and w.drop is not None for w in worths)
    drawn = min(shown, worth_charts.LARGEST) if of_plan else shown
    which = "the largest effects are drawn" if drawn < shown else "changes with both figures are drawn"
    note = (
        f'<p class="note">{drawn} of {len(worths)}: {which}; all are in the table.</p>' if drawn < len(worths) else ""
    )
    chart = worth_charts.choices if of_plan else worth_charts.worth
    parts = (draw(chart, worths), note, _wide(worths_html(worths)), _free(about_html(worths)))
    return _section(head, *parts)


def _learnt(training: Any) -> str:
    """Warnings first, then epochs, then the settings that made them."""
    said = notes_html([f"Warning: {warning}" for warning in training.warnings])
    rows = [
        (
            number(e["epoch"], ".0f"),
            number(e["update"], ",.0f"),
            number(e.get("loss"), ".4f"),
            number(e.get("score"), ".4f"),
        )
        for e in epochs(training.history)
    ]
    known = {label(name): value(fact) for name, fact in training.settings.items()}
    facts = {}
    if training.evaluation:
        e = training.evaluation
        facts[e["metric"]] = f"{e['score']:.4f} on {e['n']:,} examples of {e['data']}"
    if training.expansion:
        e = training.expansion
        facts["labelled by a first model"] = (
            f"{e['labelled']:,} of {e['unlabelled']:,} examples, with a probability of at least {e['threshold']:g}: {value(e['by_class'])}"
        )
    facts |= {label(name): value(fact) for name, fact in training.settings.items() if _chosen(name, fact)}
    table = html_table(("epoch", "update", "loss", "score"), rows)
    every = _folded("every setting", _free(html_table(("", ""), list(known.items()))))
    return said + _wide(table) + _free(html_table(("", ""), list(facts.items()))) + every


def _chosen(name: str, fact: Any) -> bool:
    """Whether a setting is worth a line: it is not as it would be by itself, or every run is told by it."""
    from dataclasses import asdict

    from llm_moments.train.settings import Settings

    usual = asdict(Settings()).get(name)
    usual = list(usual) if isinstance(usual, tuple) else usual
    return name in ("epochs", "batch_size", "learning_rate", "seed") or fact != usual


def _plans(c: Any) -> str:
    """Every choice of both plans; those that differ stand out."""
    names = sorted({(step, knob) for plan in (c.plan, c.baseline_plan) for step in plan for knob in plan[step]})
    rows = []
    for step, knob in names:
        old, new = (plan.get(step, {}).get(knob) for plan in (c.baseline_plan, c.plan))
        kind = "same" if old == new else "changed"
        cells = "".join(f"<td>{shown(text)}</td>" for text in (f"{step}.{knob}", value(old), value(new)))
        rows.append(f'<tr class="{kind}">{cells}</tr>')
    head = "".join(f'<th style="text-align:left">{name}</th>' for name in ("choice", "baseline", "now"))
    return _free(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")


def _facts(c: Any) -> str:
    facts: Mapping[str, Any] = {
        "model": c.model, "digest of its weights": c.model_digest, "data": c.data, "scored by": c.metric,
        "scored against": "references" if c.labelled else "the baseline's own answers",
        "certification examples": c.counted or f"{c.n_certify:,}", "answers changed for worse": c.harmful,
        "answers changed for better": c.beneficial, "score, baseline": number(c.baseline_score, ".4f"),
        "score, now": number(c.score, ".4f"), "candidates held against the split": c.looks,
        "the baseline": c.baseline or "the stock plan", "its answers": c.answers or "its own", "made": c.created or None,
    }  # fmt: skip
    return _free(html_table(("", ""), [(name, value(fact)) for name, fact in facts.items()]))
