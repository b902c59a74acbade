"""One answer opened up: which parts of the input it rests on, what never reached the model, what layers and other plans
would change, and what it cost.

Example: moments explain my-model "The plot was thin, but I loved every minute."

Example: moments explain improved/ "A long text …" --parts sentences --html answer.html

Example: moments explain SmolLM2.gguf "Note 1: … Note 2: … Where does Ann live?" --json

Example: moments explain SmolLM2.gguf --messages talk.json --html talk.html

Example: moments explain my-model "A long text …" --against improved/

Example: moments explain my-model --data reviews.csv --limit 100 --out why.parquet --html why.html"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths, tell
from llm_moments.cli.verb import verb


@verb
def explain(
    model: o.ModelArg,
    rows: o.Bare,
    opened: o.Explained,
    page: o.Page,
    said: o.Said,
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT", parser=paths.text, help="A text or prompt, or the name of an image or a sound."
        ),
    ] = None,
    messages: Annotated[
        Path | None,
        typer.Option(
            "--messages", parser=paths.path, help='A dialogue, in the place of INPUT: JSON [{"role": …, "content": …}].'
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", envvar="MOMENTS_DATA", parser=paths.text, help="Rows to explain, in the place of INPUT."
        ),
    ] = None,
    second: Annotated[
        str | None, typer.Option("--pair", parser=paths.text, help="The second text, of models that take two.")
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            "--parts",
            help="What the input is taken apart into: words, sentences, patches; of a prompt also pieces (else), turns, paragraphs.",
        ),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            "--answer", parser=paths.text, help="A text that is judged in the place of the answer that is made."
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            parser=paths.text,
            help="Another plan (a .toml file, or step.knob=value), model or artefact, asked the same: where the two part.",
        ),
    ] = None,
    depth: Annotated[
        int,
        typer.Option("--depth", min=0, max=2, help="0: parts; 1: layers and other plans; 2: attention and MLP too."),
    ] = 1,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            envvar="MOMENTS_BUDGET",
            help="Time after which layers and other plans are left out, 30s if nothing is said; of --data all of it, 10m.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=paths.path,
            help="Save it as JSON; of --data a table (.parquet, .jsonl, .csv, .tsv) and a JSON file a row beside it.",
        ),
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    from llm_moments.base.errors import InputError
    from llm_moments.cli.explaining import go
    from llm_moments.explain.explain import BUDGET
    from llm_moments.explain.explain import explain as opened_up

    if data is not None and (
        text is not None or second is not None or messages is not None or answer is not None or against
    ):
        raise InputError(
            "--data explains rows of a file; INPUT, --pair, --messages, --answer and --against are of a single one"
        )
    page.free(out, data=data or "-", overwrite=overwrite)
    if data is not None:
        pipe = opened.open(model)
        go(pipe, data, rows, page, said, parts=parts, depth=depth, budget=budget, out=out, overwrite=overwrite)
        return
    value = _value(text, second, messages)
    other: Any = None
    if against:
        choices = all("=" in word and not Path(word).exists() for word in against)
        if not choices and len(against) > 1:
            raise InputError("--against takes one plan, model or artefact, or choices such as forward.precision=bf16")
        other = o.named_values(against, "--against") if choices else against[0]
    pipe = opened.open(model)
    with tell.progress(said.fmt) as tick:
        found = opened_up(
            pipe, value, parts=parts, answer=answer, against=other, depth=depth, budget=budget or BUDGET, progress=tick
        )
    if out:
        found.save(out)
    said.tell(found, "explanation:show")
    page.write(explanation=found)


def _value(text: str | None, second: str | None, messages: Path | None) -> Any:
    """What is asked: a text, two of them, or a dialogue."""
    from llm_moments.base import schema
    from llm_moments.base.errors import InputError

    if (text is None) == (messages is None):
        raise InputError("say either INPUT, --messages FILE or --data FILE")
    if messages is None:
        return (text, second) if second is not None else text
    if second is not None:
        raise InputError("--pair goes with INPUT, not with --messages")
    if not messages.is_file():
        raise InputError(f"--messages {messages}: there is no such file")
    found = schema.read(messages, "a dialogue in JSON", lambda data: data)
    return found if isinstance(found, dict) else {"messages": found}
