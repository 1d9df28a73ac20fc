"""Chat templates of composed models: a language model's own, taught to write pictures, or a plain one."""

from pathlib import Path

from jinja2 import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finesight.core.errors import ModelError
from finesight.models.scratch import IMAGE

AUDIO = "<audio>"
"""Stands for a sound, as IMAGE for a picture."""

_WHERE = "model.compose.language.template"

PLAIN = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ 'User: ' + message['content'] + '\n' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ 'Assistant: ' + message['content'] + END + '\n' }}"
    "{%- else -%}{{ message['content'] + '\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)
"""Turns as people write dialogues; END stands for the tokenizer's end token, in quotes."""

_FLATTEN = (
    "{%- set flat = namespace(turns=[], text='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set flat.turns = flat.turns + [message] -%}"
    "{%- else -%}"
    "{%- set flat.text = '' -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{%- set flat.text = flat.text + PICTURE -%}"
    "HEARD"
    "{%- elif part['type'] == 'text' -%}{%- set flat.text = flat.text + part['text'] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- set flat.turns = flat.turns + [dict(message, content=flat.text)] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.turns -%}"
)
"""What comes before a template that knows words alone: each turn's parts become one text, PICTURE for a picture."""

_HEARD = "{%- elif part['type'] == 'audio' -%}{%- set flat.text = flat.text + SOUND -%}"
"""In the place of HEARD where the model hears: SOUND for a sound."""


def chat_template(
    asked: str | None, own: str | None, close: str, start: str | None, end: str | None, hears: bool = False
) -> str:
    """The template of the whole model; raises ModelError where there is none, or where it cannot be read.

    `asked` is `plain`, the path of a Jinja file, or None for the language model's `own`; `close` is its end token;
    `start` and `end` are written around every picture. A model that `hears` has sounds in their places.
    """
    if asked == "plain":
        inner = PLAIN.replace("END", _quoted(close))
    elif asked is not None:
        inner = _file(asked)
    elif own is not None:
        inner = own
    else:
        raise ModelError(
            "this language model has no chat template",
            _WHERE,
            "give `template: plain`, or the path of a Jinja file",
        )
    flatten = _FLATTEN.replace("HEARD", _HEARD.replace("SOUND", _quoted(AUDIO)) if hears else "")
    return flatten.replace("PICTURE", _quoted(f"{start or ''}{IMAGE}{end or ''}")) + inner


def _file(place: str) -> str:
    try:
        text = Path(place).expanduser().read_text(encoding="utf-8")
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the template cannot be read: {error}", _WHERE, "give `plain`, or the path of a Jinja file"
        ) from error
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the template is not right: {error.message}", f"{place}, line {error.lineno}", "correct it"
        ) from error
    return text


def _quoted(text: str) -> str:
    """A text as Jinja writes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
