"""A program that knows `transformers` and not finesight: it loads composed models and computes with them.

`python remote.py plain:FOLDER trust:FOLDER…`: each folder has `inputs.safetensors` beside `model/`;
it writes `outputs.safetensors`, `texts.json` and the model saved again, `again/`.
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

try:
    import finesight  # noqa: F401
except ImportError:
    pass
else:
    raise SystemExit("finesight can be imported: this shows nothing")

for argument in sys.argv[1:]:
    trust, _, place = argument.partition(":")
    folder, remote = Path(place), {"trust_remote_code": True} if trust == "trust" else {}
    processor = AutoProcessor.from_pretrained(folder / "model", **remote)
    model, facts = AutoModelForImageTextToText.from_pretrained(
        folder / "model", output_loading_info=True, **remote
    )
    assert not any(facts.values()), facts
    inputs = load_file(folder / "inputs.safetensors")
    asked = {name: inputs[f"asked_{name}"] for name in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        logits = model(**{name: inputs[name] for name in asked}).logits
        greedy = model.generate(**asked, max_new_tokens=4, do_sample=False)
        beams = model.generate(**asked, max_new_tokens=4, do_sample=False, num_beams=3)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which colours?"}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    read = processor(images=Image.open(folder / "picture.png"), text=text, return_tensors="pt")
    found = {"logits": logits, "greedy": greedy, "beams": beams, **read}
    save_file({name: value.contiguous() for name, value in found.items()}, folder / "outputs.safetensors")
    (folder / "texts.json").write_text(json.dumps({"kind": type(model).__name__, "text": text}))
    model.save_pretrained(folder / "again")
    processor.save_pretrained(folder / "again")
