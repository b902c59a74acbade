"""What this machine has: hardware, measured peaks, engines found or how to install them.

Example: moments doctor"""

from __future__ import annotations

from llm_moments.cli import options as o


def doctor(format: o.Format = "human", json_: o.Json = False, config: o.Config = None) -> None:
    from llm_moments.assembly.doctor import doctor as examine

    found = examine()
    if o.output_format(format, json_) == "json":
        o.print_json(found)
        return
    from llm_moments.render.console import show_doctor, terminal

    show_doctor(found, terminal())
