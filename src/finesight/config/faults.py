"""What pydantic found, in a person's words: key, value got, values allowed, and the cure."""

import copy
import difflib
import json
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import getitem
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from finesight.config.base import Inconsistent, shape
from finesight.config.yaml import KeyPath
from finesight.core.errors import Fault

_NEAR = 0.5
"""Likeness from which a known name is offered for an unknown one; 1 is equal."""

_BOUNDS = {
    "greater_than": ("gt", "above {}"),
    "greater_than_equal": ("ge", "of at least {}"),
    "less_than": ("lt", "below {}"),
    "less_than_equal": ("le", "of at most {}"),
}
_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}


def faults_of(error: ValidationError, model: type[BaseModel], places: Mapping[KeyPath, str]) -> list[Fault]:
    """One fault for each error, in the order of the recipe's sections."""
    return [_fault(detail, model, places) for detail in error.errors(include_url=False)]


def with_nearest_sources(error: ValidationError, model: type[BaseModel], value: Any) -> Any | None:
    """A copy of the value in which misspelt sources are put right, so that the faults behind them show too."""
    mended = None
    for detail in error.errors(include_url=False):
        if not _is_unknown_source(detail):
            continue
        path, _, known = _walk(detail["loc"], model)
        near = difflib.get_close_matches(str(detail["ctx"]["tag"]), known, n=1, cutoff=_NEAR)
        if near:
            mended = copy.deepcopy(value) if mended is None else mended
            reduce(getitem, path, mended)["source"] = near[0]
    return mended


def _is_unknown_source(detail: ErrorDetails) -> bool:
    return detail["type"] == "union_tag_invalid" and detail["ctx"]["discriminator"] == "'source'"


def _fault(detail: ErrorDetails, model: type[BaseModel], places: Mapping[KeyPath, str]) -> Fault:
    path, field, known = _walk(detail["loc"], model)
    what, mend = _told(detail, path, known)
    documentation = field.description if field is not None and detail["type"] != "value_error" else None
    if detail.get("ctx", {}).get("discriminator") == "'source'":
        path, documentation = (*path, "source"), None
    if documentation:
        mend = f"{mend}\n         ({documentation})"
    return Fault(what, _where(path, places), mend)


def _told(detail: ErrorDetails, path: KeyPath, known: tuple[str, ...]) -> tuple[str, str]:
    """What is wrong, and the cure."""
    kind, got, context = detail["type"], detail["input"], detail.get("ctx", {})
    name = f"`{'.'.join(map(str, path)) or 'the recipe'}`"
    if kind == "missing":
        return f"{name} is missing", "give it"
    if kind == "extra_forbidden":
        return f"{name} is no known key", _nearest(str(path[-1]), known, "the keys here are")
    if kind == "union_tag_not_found":
        return (
            f"{name} does not say what kind of source it is",
            f"add `source:` with one of {', '.join(known)}",
        )
    if _is_unknown_source(detail):
        wrong = str(context["tag"])
        return f"{name} has the unknown source `{wrong}`", _nearest(wrong, known, "the sources are")
    if kind == "literal_error":
        allowed = _literals(context["expected"])
        return f"{name} is {_said(got)}, which is not allowed", _nearest(str(got), allowed, "allowed are")
    if kind == "value_error" and isinstance(context["error"], Inconsistent):
        return f"{name}: {context['error']}", context["error"].mend
    return _wrong_value(kind, name, got, context)


def _wrong_value(kind: str, name: str, got: Any, context: Mapping[str, Any]) -> tuple[str, str]:
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        limit = context[bound]
        allowed = words.format(f"{limit:g}" if isinstance(limit, float) else limit)
        return f"{name} is {_said(got)}; it must be {allowed.removeprefix('of ')}", f"give a number {allowed}"
    if kind == "union_tag_invalid":
        kinds = _literals(context["expected_tags"])
        return _wrong_kind(name, got, " or ".join(kinds))
    if kind in _KINDS:
        return _wrong_kind(name, got, _KINDS[kind])
    if kind == "string_pattern_mismatch":
        return (
            f"{name} is {_said(got)}, which has characters that are not allowed",
            f"use what `{context['pattern']}` allows",
        )
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        allowed = f"at least {least}" if most is None else f"at most {most}"
        of = "characters" if kind.startswith("string") else "items"
        return f"{name} is {_said(got)}; it must have {allowed} {of}", f"give {allowed} {of}"
    if kind == "finite_number":
        return f"{name} is no finite number", "give a finite number"
    return f"{name} is {_said(got)}, which is not allowed", "give another value"


def _wrong_kind(name: str, got: Any, wanted: str) -> tuple[str, str]:
    """A value of another type than the wanted one, and how to write it so that it means what it should."""
    mend = f"give {wanted}"
    if wanted.startswith("text") and isinstance(got, bool | int | float):
        mend = "put quotes around it if text is meant" + (f': "{got}"' if type(got) is int else "")
    elif isinstance(got, float) and "whole number" in wanted and got.is_integer() and abs(got) < 1e15:
        mend = f"write {int(got)}"
    elif isinstance(got, str) and "number" in wanted and got.replace("_", "").replace(".", "").isdigit():
        mend = f"write {got.replace('_', '')} without quotes, underscores or leading zeros"
    return f"{name} is {_said(got)}; it must be {wanted}", mend


def _said(got: Any) -> str:
    """A value as a person would point at it."""
    words = shape(got)
    if words in ("text", "true or false", "a whole number", "a number"):
        shown = json.dumps(got, ensure_ascii=False)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}…"
        return f"the text {shown}" if words == "text" else shown
    return "empty" if got is None else words


def _nearest(wrong: str, known: Iterable[str], lead: str) -> str:
    known = tuple(known)
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=_NEAR)
    listed = f"{lead} {', '.join(known)}"
    return f"did you mean `{near[0]}`? {listed}" if near else listed


def _literals(expected: str) -> tuple[str, ...]:
    """The names in pydantic's "'a', 'b' or 'c'"."""
    return tuple(expected.split("'")[1::2])


def _where(path: KeyPath, places: Mapping[KeyPath, str]) -> str:
    """The key path, and where it (or else the section that should hold it) was written."""
    key = ".".join(map(str, path)) or "top level"
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            return f"{key} ({places[path[:length]]})"
    return key


def _walk(
    steps: tuple[int | str, ...], model: type[BaseModel]
) -> tuple[KeyPath, FieldInfo | None, tuple[str, ...]]:
    """Follow an error's location, which holds keys, list positions and the tags of union branches.

    Returns the keys and positions alone, the field that they lead to, and the names that are known there: the
    branches of a union, else the keys of the section that the last step was taken in.
    """
    path: KeyPath = ()
    field: FieldInfo | None = None
    known: tuple[str, ...] = ()
    here: Any = model
    for step in steps:
        if branches := _branches(here):
            here = _bare(branches.get(str(step)))
            continue
        path = (*path, step)
        if isinstance(here, type) and issubclass(here, BaseModel):
            field, known = here.model_fields.get(str(step)), tuple(here.model_fields)
            here = None if field is None else _bare(field.annotation)
        else:
            inner = get_args(here) or (None,)
            if inner[-1] is Ellipsis or isinstance(step, str):  # tuple[X, ...] and dict[str, X]
                here = _bare(inner[-2] if inner[-1] is Ellipsis else inner[-1])
            else:
                here = _bare(inner[min(step, len(inner) - 1)])
    return path, field, tuple(_branches(here)) or known


def _bare(annotation: Any) -> Any:
    """An annotation without its metadata and without the None of an optional value."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        arms = [arm for arm in get_args(annotation) if arm is not NoneType]
        return _bare(arms[0]) if len(arms) == 1 else annotation
    return annotation


def _branches(annotation: Any) -> dict[str, Any]:
    """The branches of a union by tag; empty where the annotation is none. Every union of a recipe has tags."""
    if get_origin(annotation) not in (Union, UnionType):
        return {}
    return {_tag(arm): arm for arm in get_args(annotation) if arm is not NoneType}


def _tag(arm: Any) -> str:
    """The `Tag` of a branch, or else the value that its `source` must have."""
    if get_origin(arm) is Annotated:
        return next((extra.tag for extra in get_args(arm)[1:] if isinstance(extra, Tag)), "")
    source = arm.model_fields.get("source") if isinstance(arm, type) and issubclass(arm, BaseModel) else None
    return str(get_args(source.annotation)[0]) if source is not None else ""
