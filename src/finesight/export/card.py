"""The model card: what it is, what it learned from, how good, how to load it."""

from collections.abc import Mapping, Sequence
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.prediction import Score
from finesight.export.loading import Kind, loading_code

_TAGS: Mapping[Kind, str] = {
    "chat": "image-text-to-text",
    "captions": "image-to-text",
    "text": "text-generation",
    "text2text": "text2text-generation",
}

_OWN_CODE = """This folder carries its modelling code, `modeling_finesight.py`, which needs `torch` and `transformers`
alone. Others run it only where they are told to, by `trust_remote_code=True`: read it first. finesight has the same
code, and does not run the folder's."""


def _samples(facts: Mapping[str, Any]) -> str:
    count = facts["data"]["train"]["samples"]
    return "a stream of samples" if count is None else f"{count:,} samples"


def _has_own_code(facts: Mapping[str, Any]) -> bool:
    return facts.get("family") == "finesight_llava"


def _architecture(facts: Mapping[str, Any]) -> str:
    own = "an architecture of its own, close to LLaVA's"
    return own if _has_own_code(facts) else f"the architecture `{facts['family']}`"


def model_card(recipe: Recipe, facts: Mapping[str, Any], scores: Sequence[Score] = (), note: str = "") -> str:
    """Markdown for the `README.md` of a saved model; `facts` as `environment.json` has them."""
    total = sum(part["total"] for part in facts["parameters"].values())
    about = [f"{total:,} parameters in {_architecture(facts)}, trained with finesight on {_samples(facts)}."]
    about += [note] if note else []
    about += [_OWN_CODE] if _has_own_code(facts) else []
    head = ["library_name: transformers", f"pipeline_tag: {_TAGS[facts['kind']]}"]
    return _card(recipe, head, about, scores, loading_code(facts["kind"], own_code=_has_own_code(facts)))


def adapter_card(recipe: Recipe, facts: Mapping[str, Any], scores: Sequence[Score] = ()) -> str:
    """The same for an adapter, which is nothing without its base."""
    base = facts["base"]
    learned = sum(part["trainable"] for part in facts["parameters"].values())
    numbers = f", loaded in {base['quantize']}" if base["quantize"] else ""
    about = (
        f"A LoRA adapter of {learned:,} values for the base model `{base['place']}`{numbers}, "
        f"trained with finesight on {_samples(facts)}."
    )
    head = ["library_name: peft", f"base_model: {base['place']}"]
    load = loading_code(
        facts["kind"], own_code=_has_own_code(facts), base=base["place"], revision=base["revision"] or ""
    )
    return _card(recipe, head, [about], scores, load)


def _card(
    recipe: Recipe, head: Sequence[str], about: Sequence[str], scores: Sequence[Score], load: str
) -> str:
    first = recipe.description or "A model."
    lines = ["---", *head, "---", f"# {recipe.run.name}", "", first, ""]
    lines += [line for text in about for line in (text, "")]
    if scores:
        lines += ["| split | slice | score | value | 95 % interval | samples |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {s.split} | {s.slice} | {s.name} | {s.value:.3f} | {s.low:.3f} to {s.high:.3f} | {s.count} |"
            for s in scores
        ]
        lines.append("")
    return "\n".join([*lines, "## Load it without finesight", "", load, ""])
