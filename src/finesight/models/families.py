"""What cannot be read off a model's files: how families without a chat template write their turns, and their quirks.

A family that is not named here is taken as its processor's own chat template says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Along = Literal["none", "kinds", "types", "prefix", "cross"]
"""Inputs that have a value for each token: none; `mm_token_type_ids`; the same as `token_type_ids` (Gemma 3); a
`token_type_ids` that tells answers from what is read in both directions (PaliGemma); the mask of Llama 3.2's
cross-attention."""

_TEXT = "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
_PICTURES = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<PICTURE>' }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def _turns(begin: str, after_question: str, end: str, text: str = _TEXT) -> str:
    """A template that writes what is said, one turn after another, and the end after each answer."""
    return (
        f"{begin}{{% for m in messages %}}{text}{{% if m['role'] == 'assistant' %}}{end}"
        f"{{% else %}}{after_question}{{% endif %}}{{% endfor %}}"
    )


PLAIN = _turns("{{ bos_token }}", "{{ '\\n' }}", "{{ eos_token }}", "{{ m['content'] }}")
"""Turns of a text model without a template: each on a line, the end token after each answer."""

LINES = _turns("{{ cls_token }}", "{{ '\\n' }}", "{{ sep_token }}")
"""Turns of a new captioner, each on a line."""

_CAPTION = _turns("{{ cls_token }}", "{{ ' ' }}", "{{ sep_token }}")
_PICTURES_FIRST = _turns(_PICTURES + "{{ bos_token }}", "{{ '\\n' }}", "{{ eos_token }}")


@dataclass(frozen=True)
class Family:
    """Facts of one model type.

    `template` is used where the processor has none; `<PICTURE>` in it stands for the processor's own placeholder.
    `beside`: pictures stand in no text. `first` is the key of the (text) configuration whose token stands first in
    place of the tokenizer's; `asked` names the tokenizer's token that a prompt is closed with, because `generate` takes
    the last one off. Prompts of unlike lengths cannot be answered together unless it `pads`. `plain_generate`: its own
    `generate` is for long recordings with prompts of its own, and the common one is used. `refused` says why it cannot
    be used, `unpacked` why its samples cannot lie in one row.
    """

    template: str | None = None
    beside: bool = False
    first: str | None = None
    asked: Literal["sep_token"] | None = None
    pads: bool = True
    along: Along = "none"
    plain_generate: bool = False
    refused: str = ""
    unpacked: str = ""


_TWO_TOKENIZERS = "it reads its question through a second tokenizer, which no chat template writes"
_BESIDE = "its pictures stand beside its words, one before each row"
_OTHER_OUTPUT = "it writes more than text"

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        # Salesforce/BLIP sets the first token to its decoder's start token while training, and `generate` does so too
        "blip": Family(
            _CAPTION, beside=True, first="bos_token_id", asked="sep_token", pads=False, unpacked=_BESIDE
        ),
        "git": Family(_CAPTION, beside=True, pads=False, unpacked=_BESIDE),
        "blip-2": Family(_PICTURES_FIRST),
        "paligemma": Family(_PICTURES_FIRST, along="prefix"),
        "gemma3": Family(along="types"),
        "mllama": Family(
            along="cross", unpacked="its words read its pictures through an attention of their own"
        ),
        "whisper": Family(plain_generate=True),
        "instructblip": Family(refused=_TWO_TOKENIZERS),
        "instructblipvideo": Family(refused=_TWO_TOKENIZERS),
        "idefics2": Family(
            refused="its processor joins the markers of neighbouring pictures, so they are not counted"
        ),
        "idefics": Family(refused="its processor takes pictures inside of prompts, and has no chat template"),
        "janus": Family(refused=_OTHER_OUTPUT),
        "emu3": Family(refused=_OTHER_OUTPUT),
        "chameleon": Family(refused=_OTHER_OUTPUT),
        "kosmos-2": Family(refused="it writes places in the picture, which no sample has"),
        "fuyu": Family(refused="its processor lays pictures out as text by a rule of its own"),
        "pix2struct": Family(refused="its pictures carry their question as pixels"),
        "florence2": Family(refused="its questions are task tokens that its processor writes out"),
        "udop": Family(refused="it reads words with their places on a page, which no sample has"),
    }
)
"""By `model_type`. A refusal is told with its reason."""

NONE = Family()


def why_not_packed(model_type: str, encoder_decoder: bool) -> str:
    """Why several samples cannot lie in one row of such a model; empty where nothing is known against it."""
    if encoder_decoder:
        return "it reads through an encoder"
    return FAMILIES.get(model_type, NONE).unpacked
