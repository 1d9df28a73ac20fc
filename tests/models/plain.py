"""A program that knows `transformers` and not finesight: it loads a folder and answers about pictures.

`python plain.py FOLDER QUESTION NEW_TOKENS PICTURE…` prints one JSON object: answers, and the first logits of each.
The two lines about the picture are what anybody does who wants upright pictures on white.
"""

import json
import sys

import torch
from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor

assert "finesight" not in sys.modules
try:
    import finesight  # noqa: F401
except ImportError:
    pass
else:
    raise SystemExit("finesight can be imported: this shows nothing")

folder, question, new_tokens, *pictures = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder)
turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
text = processor.apply_chat_template([turn], add_generation_prompt=True)
found = {"answers": [], "logits": [], "ids": []}
for place in pictures:
    picture = ImageOps.exif_transpose(Image.open(place))
    if picture.mode in ("RGBA", "LA", "P"):
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    inputs = processor(images=picture.convert("RGB"), text=text, return_tensors="pt")
    with torch.no_grad():
        found["logits"].append(model(**inputs).logits[0, -1].tolist())
        answer = model.generate(**inputs, max_new_tokens=int(new_tokens))[:, inputs["input_ids"].shape[1] :]
    found["ids"].append(inputs["input_ids"][0].tolist())
    found["answers"].append(processor.batch_decode(answer, skip_special_tokens=True)[0].strip())
print(json.dumps(found))
