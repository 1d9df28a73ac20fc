"""Which peers cannot be measured here. No benchmark needs them all: one that lacks a package is left out, and told."""

import importlib.util
from collections.abc import Iterable

NEEDS = {"trainer": "accelerate", "sft": "trl", "sft_default": "trl", "sft_free": "trl"}
"""Loops of others by name, and the package without which one cannot run."""


def missing(names: Iterable[str]) -> dict[str, str]:
    """Of these loops those that cannot run here, and the package that each lacks."""
    wanted = {name: NEEDS[name] for name in names if name in NEEDS}
    return {name: package for name, package in wanted.items() if importlib.util.find_spec(package) is None}
