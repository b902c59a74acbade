"""What a folder of a student will give, before there is one: to see that it is what was made."""

from __future__ import annotations

import tempfile
from typing import Any

from llm_moments.models.model import Model
from llm_moments.models.nets.architectures import is_image_model
from llm_moments.models.open import open_model


def reloaded(module: Any, described: Model) -> Any:
    """The module as it is loaded from what is saved of it; its inputs are prepared as described, and are not saved."""
    from llm_moments.engines.torch_eager import load_module

    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(folder)
        saved = open_model(folder)
        if is_image_model(saved.config):
            from llm_moments.models.preprocessing import preprocessing

            saved.__dict__["_preprocessing"] = preprocessing(described)
        return load_module(saved)
