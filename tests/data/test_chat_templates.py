"""T17 over the chat templates that people meet: what is learned is the answers and their ends, nothing else.

The templates are written after those of the models they are named for, with the parts of a picture's turn; the
tokenizers are trained here, of the same kind as the models'.
"""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_files import png
from test_encode import ANSWERS, BODY, byte_level, ports_with, sentence_piece
from transformers import LlavaProcessor

from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Image, Message, Origin, Role, Sample, Text
from finesight.data.encode import encode, encode_prompt
from finesight.data.lengths import EncodedText

TRIMMED = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
)
QWEN = (  # ChatML, with a system message of its own
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}" + BODY + "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}" + TRIMMED + "{{ '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PHI3 = (  # ends the whole conversation by another token than each turn
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}"
    + BODY
    + "{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (  # puts the system's words before the first question
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'][0]['text'] + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' }}"
    "{% if loop.first %}{{ first }}{% endif %}" + TRIMMED + "{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    + BODY
    + "{{ '[/INST]' }}"
    "{% elif message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' }}" + BODY + "{{ '[/SYSTEM_PROMPT]' }}"
    "{% else %}{{ ' ' }}" + TRIMMED + "{{ eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}" + BODY + "{{ ' ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' }}" + BODY + "{{ ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' }}" + BODY + "{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ENDS = {
    "qwen": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "phi3": "<|end|>",
    "gemma": "<end_of_turn>",
    "mistral": "</s>",
    "vicuna": "</s>",
}


@lru_cache
def model_of(name: str) -> tuple[Ports, LlavaProcessor]:
    """Ports and processor of a model with this template."""
    if name == "qwen":
        special = ["<|im_start|>", "<|im_end|>"]
        core = byte_level(["<|endoftext|>", "<image>", *special])
        return ports_with(core, QWEN, special, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    if name == "llama3":
        special = ["<|start_header_id|>", "<|end_header_id|>"]
        core = byte_level(["<pad>", "<image>", "<|begin|>", "<|eot_id|>", *special], bos="<|begin|>")
        named = {"pad_token": "<pad>", "eos_token": "<|eot_id|>", "bos_token": "<|begin|>"}
        return ports_with(core, LLAMA3, special, **named)
    if name == "phi3":
        special = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
        core = byte_level(["<|endoftext|>", "<image>", *special])
        return ports_with(core, PHI3, special, pad_token="<|endoftext|>", eos_token="<|endoftext|>")
    if name == "gemma":
        special = ["<start_of_turn>", "<end_of_turn>"]
        core = byte_level(["<pad>", "<image>", "<bos>", "<eos>", *special], bos="<bos>")
        named = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
        return ports_with(core, GEMMA, special, **named)
    named = {"pad_token": "</s>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    special = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"] if name == "mistral" else []
    core = sentence_piece(["<unk>", "<s>", "</s>", "<image>", *special])
    return ports_with(core, MISTRAL if name == "mistral" else VICUNA, special, **named)


def made(name: str) -> Ports:
    return model_of(name)[0]


def conversation(*texts: str, system: str = "", pictures: tuple[int, ...] = ()) -> Sample:
    """Questions and answers by turns; `pictures` are their numbers in each question."""
    roles: tuple[Role, Role] = ("user", "assistant")
    turns = [Message("system", (Text(system),))] if system else []
    for number, text in enumerate(texts):
        shown = pictures[number // 2] if number % 2 == 0 and number // 2 < len(pictures) else 0
        images = tuple(Image(png(10 * number + at)) for at in range(shown))
        turns.append(Message(roles[number % 2], (*images, Text(text))))
    return Sample("x", tuple(turns), (texts[-1],), Origin("t.csv", 4))


def check(name: str, sample: Sample) -> None:
    ports = made(name)
    text = encode(sample, ports)
    answers = [turn.text.strip() for turn in sample.messages if turn.role == "assistant"]
    found = learned_of(text, ports)
    assert [one.lstrip(" ") for one in found] == [answer + ENDS[name] for answer in answers]
    supervised = np.flatnonzero(text.targets != IGNORE)
    assert (text.targets[supervised] == text.tokens[supervised + 1]).all()
    if ports.tokenizer.bos_token_id is not None and name != "vicuna":
        assert (text.tokens == ports.tokenizer.bos_token_id).sum() == 1
    image = ports.image
    assert image is not None
    assert (text.tokens == image.placeholder_id).sum() == len(sample.images) * image.tokens_per_image
    prompt = encode_prompt(sample, ports)
    assert (text.tokens[: len(prompt)] == prompt).all()


def learned_of(text: EncodedText, ports: Ports) -> list[str]:
    """The text of each run of targets."""
    runs: list[list[int]] = [[]]
    for target in text.targets.tolist():
        if target == IGNORE:
            runs.append([])
        else:
            runs[-1].append(target)
    return [ports.tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs if run]


@pytest.mark.parametrize("name", ENDS)
def test_answers_and_their_ends_alone_are_learned(name: str) -> None:
    for answer in ANSWERS:
        check(name, conversation("what is it?", answer))
        check(name, conversation("what is it?", answer, pictures=(2,)))
        check(name, conversation("what?", answer, "sure?", "yes", "and this?", answer, pictures=(1, 0, 2)))
        check(name, conversation("what?", answer, "sure?", "yes", system="Be brief.", pictures=(1, 1)))


@pytest.mark.proof
@pytest.mark.parametrize("name", ENDS)
@given(
    turns=st.lists(st.sampled_from(ANSWERS), min_size=2, max_size=8).filter(
        lambda turns: len(turns) % 2 == 0
    ),
    pictures=st.lists(st.integers(0, 2), max_size=4).map(tuple),
    system=st.sampled_from(["", "Be brief.", "日本の旗"]),
)
@settings(max_examples=15)
def test_any_conversation(name: str, turns: list[str], pictures: tuple[int, ...], system: str) -> None:
    check(name, conversation(*turns, system=system, pictures=pictures))


@pytest.mark.parametrize("name", ENDS)
def test_answers_that_are_not_to_be_learned_are_read(name: str) -> None:
    sample = conversation("what?", "a bird", "sure?", "yes")
    first = sample.messages[1]
    read = Message(first.role, first.parts, learn=False)
    sample = Sample("x", (sample.messages[0], read, *sample.messages[2:]), ("yes",), sample.origin)
    text = encode(sample, made(name))
    assert [one.lstrip(" ") for one in learned_of(text, made(name))] == ["yes" + ENDS[name]]
    assert "a bird" in made(name).tokenizer.decode(text.tokens.tolist())
    unlearned = Sample("x", (sample.messages[0], read), ("a bird",), sample.origin)
    with pytest.raises(DataError, match="no answer to learn from"):
        encode(unlearned, made(name))


def test_a_template_that_moves_the_system_message_is_refused() -> None:
    """Mistral's older ones write it before the last question, so that earlier turns would read otherwise."""
    moving = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
        "{% if loop.last or loop.index0 == messages | length - 2 %}{{ messages[0]['content'][0]['text'] }}{% endif %}"
        + BODY
        + "{{ '[/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' }}"
        + BODY
        + "{{ eos_token }}{% endif %}{% endfor %}"
    )
    core = sentence_piece(["<unk>", "<s>", "</s>", "<image>", "[INST]", "[/INST]"])
    ports, _ = ports_with(
        core, moving, ["[INST]", "[/INST]"], pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    )
    encode(conversation("what?", "a bird", system="Be brief."), ports)
    with pytest.raises(DataError, match="one after another"):
        encode(conversation("what?", "a bird", "sure?", "yes", system="Be brief."), ports)


def test_a_template_that_shortens_earlier_answers_is_refused() -> None:
    """As those do that take the thoughts out of answers that are not the last."""
    shortening = QWEN.replace(
        BODY, "{% if loop.last or message['role'] != 'assistant' %}" + BODY + "{% endif %}"
    )
    core = byte_level(["<pad>", "<image>", "<|im_start|>", "<|im_end|>"])
    ports, _ = ports_with(core, shortening, [], pad_token="<pad>", eos_token="<|im_end|>")
    encode(conversation("what?", "a bird"), ports)
    with pytest.raises(DataError, match="the chat template changes the answer"):
        encode(conversation("what?", "a bird", "sure?", "yes"), ports)
