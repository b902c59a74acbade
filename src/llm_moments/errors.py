"""The errors, where users look for them; they are told apart in `base/errors.py`."""

from llm_moments.base.errors import *  # noqa: F403
