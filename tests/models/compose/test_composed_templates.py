"""A language model's own chat template, taught to write pictures."""

from pathlib import Path

import pytest
from tiny_parts import LANGUAGE, built, composed
from transformers import AutoConfig, AutoModelForCausalLM

from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Image, Message, Origin, Sample, Text
from finesight.data.encode import encode, encode_prompt
from finesight.models.compose.templates import chat_template

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|system|>You help.' + eos_token + '\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TURNS = (
    Message("user", (Image(b""), Text("Which colours?"))),
    Message("assistant", (Text("red, green"),)),
    Message("user", (Text("And now "), Image(b""), Text("?"))),
    Message("assistant", (Text("blue"),)),
)


def _ports(folder: Path, template: str | None, asked: str | None = None, **tokens: str) -> Ports:
    tokenizer = built(composed("clip", "mlp", "llama")).processor.tokenizer
    values = {name: value for name, value in LANGUAGE["llama"].items() if name != "model_type"}
    AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", vocab_size=len(tokenizer), **values)
    ).save_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    language = {"pretrained": str(folder), **({} if asked is None else {"template": asked})}
    return built(composed("clip", "mlp", language, **tokens)).ports


def test_parts_become_the_text_that_the_template_knows(tmp_path: Path) -> None:
    ports = _ports(tmp_path, CHATML, image_start="<see>", image_end="</see>")
    seen = "<see><image></see>"
    assert ports.render(TURNS, False) == (
        f"<|system|>You help.<|end|>\n<|user|>{seen}Which colours?<|end|>\n<|assistant|>red, green<|end|>\n"
        f"<|user|>And now {seen}?<|end|>\n<|assistant|>blue<|end|>\n"
    )
    assert ports.render(TURNS[:1], True).endswith("<|end|>\n<|assistant|>")
    assert {"<see>", "</see>"} <= set(
        ports.tokenizer.all_special_tokens + list(ports.tokenizer.get_added_vocab())
    )


@pytest.mark.parametrize("asked", [None, "plain"])
def test_learned_tokens_are_the_answers_and_their_ends(tmp_path: Path, asked: str | None) -> None:
    ports = _ports(tmp_path, CHATML, asked)
    sample = Sample("a", TURNS, (), Origin("x.csv", 1))
    found = encode(sample, ports)
    learned = found.targets[found.targets != -100].tolist()
    blank = " " if asked else ""
    assert ports.tokenizer.decode(learned) == f"{blank}red, green<|end|>{blank}blue<|end|>"
    prompt = encode_prompt(sample, ports)
    assert found.tokens[: len(prompt)].tolist() == prompt.tolist()
    assert (found.tokens == ports.image.placeholder_id).sum() == 32  # type: ignore[union-attr]


def test_control_tokens_in_a_question_are_refused(tmp_path: Path) -> None:
    ports = _ports(tmp_path, CHATML, image_start="<see>")
    sample = Sample("a", (Message("user", (Text("what is <see>?"),)), TURNS[1]), (), Origin("x.csv", 1))
    with pytest.raises(DataError, match="control token"):
        encode(sample, ports)


def test_a_template_of_the_person(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    text = chat_template(str(tmp_path / "mine.jinja"), None, "<e>", "'", None)
    assert "[{{ m['content'] }}]" in text and "\\'<image>" in text
