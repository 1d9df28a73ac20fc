"""The lines of Python by which a saved model is loaded and asked without finesight, for its card."""

from typing import Literal

Kind = Literal["chat", "captions", "text", "text2text"]
"""How a model is asked: turns with pictures, a picture alone, turns of words, or a text for an encoder."""

_CLASSES = {
    "chat": "AutoModelForImageTextToText",
    "captions": "AutoModelForImageTextToText",
    "text": "AutoModelForCausalLM",
    "text2text": "AutoModelForSeq2SeqLM",
}

_PICTURE = 'picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")'
_ON_WHITE = "  # put transparent ones on white before"

_CHAT = [
    'turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "…your question…"}]}',
    "text = processor.apply_chat_template([turn], add_generation_prompt=True)",
    _PICTURE + _ON_WHITE,
    'inputs = processor(images=picture, text=text, return_tensors="pt")',
    'answer = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]',
    "print(processor.batch_decode(answer, skip_special_tokens=True)[0])",
]
_CAPTIONS = [
    _PICTURE + _ON_WHITE,
    'pixels = pictures(images=picture, return_tensors="pt")["pixel_values"]',
    "print(tokenizer.batch_decode(model.generate(pixel_values=pixels), skip_special_tokens=True)[0])",
]
_TEXT = [
    'turn = {"role": "user", "content": "…your question…"}',
    "inputs = tokenizer.apply_chat_template(",
    '    [turn], add_generation_prompt=True, return_tensors="pt", return_dict=True',
    ")",
    'answer = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]',
    "print(tokenizer.batch_decode(answer, skip_special_tokens=True)[0])",
]
_TEXT2TEXT = [
    'inputs = tokenizer("…your text…", return_tensors="pt")',
    "print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])",
]
_ASKED = {"chat": _CHAT, "captions": _CAPTIONS, "text": _TEXT, "text2text": _TEXT2TEXT}


def loading_code(kind: Kind, *, own_code: bool = False, base: str = "", revision: str = "") -> str:
    """Markdown with the lines; `own_code`: the folder carries its modelling code. With a `base`, the folder holds an
    adapter for it."""
    cls, more = _CLASSES[kind], ", trust_remote_code=True" if own_code else ""
    of_transformers = {
        "chat": [cls, "AutoProcessor"],
        "captions": [cls, "AutoImageProcessor", "AutoTokenizer"],
    }
    names = of_transformers.get(kind, [cls, "AutoTokenizer"])
    pillow = ["from PIL import Image, ImageOps"] if kind in ("chat", "captions") else []
    lines = [*(["from peft import PeftModel"] if base else []), *pillow]
    lines += [f"from transformers import {', '.join(sorted(names))}", ""]
    if kind == "chat":
        lines.append(f'processor = AutoProcessor.from_pretrained("."{more})')
    else:
        lines.append('tokenizer = AutoTokenizer.from_pretrained(".")')
    if kind == "captions":
        lines.append('pictures = AutoImageProcessor.from_pretrained(".")')
    if base:
        pinned = f', revision="{revision}"' if revision else ""
        lines.append(f'base = {cls}.from_pretrained("{base}", dtype="float32"{pinned}{more})')
        lines.append('model = PeftModel.from_pretrained(base, ".")')
    else:
        lines.append(f'model = {cls}.from_pretrained("."{more})')
    return "\n".join(["```python", *lines, *_ASKED[kind], "```"])
