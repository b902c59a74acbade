"""What this machine has: hardware, measured peaks, engines found or how to install them.

Example: moments doctor"""

from __future__ import annotations

from llm_moments.cli import options as o
from llm_moments.cli.verb import verb


@verb
def doctor(said: o.Said) -> None:
    from llm_moments.assembly.doctor import doctor as examine

    said.tell(examine(), "console:show_doctor")
