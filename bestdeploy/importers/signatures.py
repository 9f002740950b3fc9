"""Checkpoints that are recognised by their tensor names but not imported: what to tell the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Signature(NamedTuple):
    """A model of the field, and the tensor names that give it away."""

    model: str
    matches: Callable[[set[str]], bool]


def _ends(suffix: str) -> Callable[[set[str]], bool]:
    return lambda keys: any(key.endswith(suffix) for key in keys)


SIGNATURES: tuple[Signature, ...] = (Signature("QKFormer", _ends(".tssa.q_conv.weight")),)
"""In this order: the first that matches names the model."""


def recognise(keys: set[str]) -> str | None:
    """Return the name of the model that a set of tensor names belongs to, None where unknown."""
    return next((s.model for s in SIGNATURES if s.matches(keys)), None)
