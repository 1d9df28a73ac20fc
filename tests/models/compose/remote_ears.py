"""A program that knows `transformers` and not finesight: it asks a composed model about sounds.

`python remote_ears.py FOLDER`: the folder has `sounds.npz` (sounds, and levels of a picture) beside `model/`; it
writes `outputs.safetensors`, `texts.json` and the model saved again, `again/`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

try:
    import finesight  # noqa: F401
except ImportError:
    pass
else:
    raise SystemExit("finesight can be imported: this shows nothing")

folder = Path(sys.argv[1])
processor = AutoProcessor.from_pretrained(folder / "model", trust_remote_code=True)
model, facts = AutoModelForImageTextToText.from_pretrained(
    folder / "model", output_loading_info=True, trust_remote_code=True
)
assert not any(facts.values()), facts
held = dict(np.load(folder / "sounds.npz"))
picture = Image.fromarray(held.pop("picture"))
sounds = [held[name] for name in sorted(held)]
parts = [{"type": "image"}, *({"type": "audio"} for _ in sounds), {"type": "text", "text": "How high?"}]
text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
read = processor(images=picture, text=text, audio=sounds, return_tensors="pt")
with torch.no_grad():
    logits = model(**read).logits
    greedy = model.generate(**read, max_new_tokens=4, do_sample=False)
    beams = model.generate(**read, max_new_tokens=4, do_sample=False, num_beams=3)
try:
    processor(text="<audio>", audio=[np.zeros(10**6, dtype=np.float32)])
    said = ""
except ValueError as error:
    said = str(error)
found = {"logits": logits, "greedy": greedy, "beams": beams, **read}
save_file({name: value.contiguous() for name, value in found.items()}, folder / "outputs.safetensors")
names = {"model": type(model).__name__, "processor": type(processor).__name__, "text": text, "said": said}
(folder / "texts.json").write_text(json.dumps(names))
model.save_pretrained(folder / "again")
processor.save_pretrained(folder / "again")
