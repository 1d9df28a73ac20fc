"""Overrides of a recipe: `section.key=value` words behind a command."""

import copy
from collections.abc import Sequence
from typing import Any

from finesight.config.yaml import Document, KeyPath, read_value
from finesight.core.errors import Fault, RecipeError


def override(document: Document, words: Sequence[str]) -> Document:
    """The document with the words applied from left to right; all words that cannot be applied are told at once.

    A list item is named by its position from 0 (`data.train.0.path=x`); one behind the last appends. `null`
    removes. A missing section is made. Values follow the recipe's own YAML rules: see `read_value`.
    """
    value = copy.deepcopy(document.value)
    places = dict(document.places)
    faults: list[Fault] = []
    for word in words:
        try:
            path = _apply(value, word)
        except RecipeError as error:
            faults.extend(error.faults)
            continue
        for below in [known for known in places if known[: len(path)] == path]:
            del places[below]
        places[path] = _where(word)
    if faults:
        raise RecipeError.of(faults)
    return Document(value, places)


def _apply(value: dict[str, Any], word: str) -> KeyPath:
    """Change `value` as the word says, and return the path of what changed."""
    dotted, sign, text = word.partition("=")
    keys = dotted.strip().split(".")
    if not sign or not all(keys):
        raise RecipeError(
            f"`{word}` is no override", _where(word), "write section.key=value, such as train.lr=1e-4"
        )
    new = read_value(text, _where(word))
    here: Any = value
    path: tuple[str | int, ...] = ()
    for key in keys[:-1]:
        step = _step(here, key, path, word)
        missing = step == len(here) if isinstance(here, list) else here.get(step) is None
        if missing and new is None:
            return (*path, *keys[len(path) :])  # there is nothing to remove
        if missing:
            _put(here, step, {})
        here, path = here[step], (*path, step)
    last = _step(here, keys[-1], path, word)
    _put(here, last, new)
    # A removed list item moves those behind it, so the whole list is what changed.
    return path if isinstance(here, list) and new is None else (*path, last)


def _put(here: Any, last: str | int, new: Any) -> None:
    if isinstance(here, list):
        at = int(last)
        here[at : at + 1] = [] if new is None else [new]
    elif new is None:
        here.pop(last, None)
    else:
        here[last] = new


def _step(here: Any, key: str, path: KeyPath, word: str) -> str | int:
    """The key or position that `key` means in what stands at `path`."""
    name = ".".join(map(str, path))
    if isinstance(here, dict):
        return key
    if not isinstance(here, list):
        raise RecipeError(
            f"`{name}` is {here!r}, which has no keys below it", _where(word), f"set `{name}` itself"
        )
    if not (key.isascii() and key.isdigit() and len(key) < 6 and int(key) <= len(here)):
        raise RecipeError(
            f"`{key}` is no position of the list `{name}`, which has {len(here)} items",
            _where(word),
            f"count from 0: give a number from 0 to {len(here)}, the last of which appends",
        )
    return int(key)


def _where(word: str) -> str:
    return f"the override `{word}`"
