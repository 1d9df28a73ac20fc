"""The model card: what it is, what it learned from, how good, how to load it."""

from collections.abc import Mapping, Sequence
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.prediction import Score

_LOAD = """```python
from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained(".")
model = AutoModelForImageTextToText.from_pretrained(".")
turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "…your question…"}]}
text = processor.apply_chat_template([turn], add_generation_prompt=True)
picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")  # put transparent ones on white before
inputs = processor(images=picture, text=text, return_tensors="pt")
answer = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]
print(processor.batch_decode(answer, skip_special_tokens=True)[0])
```"""

_LOAD_ADAPTER = """```python
from peft import PeftModel
from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained(".")
base = AutoModelForImageTextToText.from_pretrained("{base}", dtype="float32"{revision})
model = PeftModel.from_pretrained(base, ".")
turn = {{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": "…your question…"}}]}}
text = processor.apply_chat_template([turn], add_generation_prompt=True)
picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")  # put transparent ones on white before
inputs = processor(images=picture, text=text, return_tensors="pt")
answer = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]
print(processor.batch_decode(answer, skip_special_tokens=True)[0])
```"""


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
    load = _LOAD
    if _has_own_code(facts):
        about.append(_OWN_CODE)
        load = _LOAD.replace('(".")', '(".", trust_remote_code=True)')
    head = ["library_name: transformers", "pipeline_tag: image-text-to-text"]
    return _card(recipe, head, about, scores, load)


def adapter_card(recipe: Recipe, facts: Mapping[str, Any], scores: Sequence[Score] = ()) -> str:
    """The same for an adapter, which is nothing without its base."""
    base = facts["base"]
    learned = sum(part["trainable"] for part in facts["parameters"].values())
    numbers = f", loaded in {base['quantize']}" if base["quantize"] else ""
    about = (
        f"A LoRA adapter of {learned:,} values for the base model `{base['place']}`{numbers}, "
        f"trained with finesight on {_samples(facts)}."
    )
    revision = f', revision="{base["revision"]}"' if base["revision"] else ""
    head = ["library_name: peft", f"base_model: {base['place']}"]
    load = _LOAD_ADAPTER.format(base=base["place"], revision=revision)
    return _card(recipe, head, [about], scores, load)


def _card(
    recipe: Recipe, head: Sequence[str], about: Sequence[str], scores: Sequence[Score], load: str
) -> str:
    first = recipe.description or "A vision-language model."
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
