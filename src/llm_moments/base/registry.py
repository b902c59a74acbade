"""Registries are dictionaries of names and places, `file:Name`: what is registered is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def resolve(place: str, room: str) -> Any:
    """place: `file:Name` in that room of the house, or `package.module:Name` of another package."""
    module, _, name = place.partition(":")
    return getattr(import_module(module if "." in module else f"llm_moments.{room}.{module}"), name)
