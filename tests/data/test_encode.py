"""What is learned from: answers and their ends, character for character, whatever tokenizer and template."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from row_files import WORDS, png, tiny_ports
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from finesight.core.batch import IGNORE, Example
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Image, Message, Origin, Role, Sample, Text
from finesight.data.digest import sample_digest
from finesight.data.encode import encode, encode_prompt
from finesight.data.lengths import EncodedText
from finesight.data.loading.collate import collate
from finesight.models.ports import as_conversation, ports_of
from finesight.models.scratch import build_config, build_processor

BODY = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    + BODY
    + "{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{{ '<|header|>' + message['role'] + '<|/header|>\n\n' }}"
    + BODY
    + "{{ '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
    + BODY
    + "{{ ' [/INST]' }}{% else %}{{ ' ' }}"
    + BODY
    + "{{ ' ' + eos_token }}{% endif %}{% endfor %}"
)


def byte_level(special: list[str], trim: bool = False, bos: str | None = None) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        WORDS, trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
    )
    if trim:
        core.post_processor = processors.ByteLevel(trim_offsets=True)
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return core


def sentence_piece(special: list[str]) -> Tokenizer:
    """As SentencePiece has it: a blank is ▁, one stands before the first word, and decoding takes it away."""
    characters = sorted(
        {character for text in [*WORDS, "".join(map(chr, range(33, 127)))] for character in text}
    )
    pieces = [
        "▁",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *(c for c in characters if not c.isspace()),
        "▁a",
        "▁Paris",
    ]
    merges = [("▁", "a"), ("▁", "P")]
    names = {name: number for number, name in enumerate(dict.fromkeys([*special, *pieces, "▁P"]))}
    core = Tokenizer(models.BPE(names, merges, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return core


def ports_with(
    core: Tokenizer, template: str, special: list[str], **named: str
) -> tuple[Ports, LlavaProcessor]:
    """Ports of a model with this tokenizer and template, and its processor."""
    _, config = _tiny()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, additional_special_tokens=["<image>", *special], model_max_length=256, **named
    )
    processor = LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": 8, "width": 8}),
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="full",
        chat_template=template,
        image_token="<image>",
    )
    return replace(ports_of(processor, config), context=256), processor


def _tiny() -> tuple[object, object]:
    from finesight.config.model import Decoder, Scratch, Tokenizer, Vision

    scratch = Scratch(
        vision=Vision(image_size=8, patch=4, layers=1, heads=1, width=8, mlp=8),
        decoder=Decoder(layers=1, heads=1, width=8, mlp=8, context=256),
        tokenizer=Tokenizer(vocabulary=300),
    )
    processor = build_processor(scratch, WORDS)
    return processor, build_config(scratch, processor)


def own() -> tuple[Ports, LlavaProcessor]:
    processor, config = _tiny()
    return ports_of(processor, config), processor


def chatml(trim: bool = False) -> tuple[Ports, LlavaProcessor]:
    special = ["<|im_start|>", "<|im_end|>"]
    core = byte_level(["<pad>", "<image>", *special], trim)
    return ports_with(core, CHATML, special, pad_token="<pad>", eos_token="<|im_end|>")


def llama3(template_writes_bos: bool = False) -> tuple[Ports, LlavaProcessor]:
    special = ["<|header|>", "<|/header|>"]
    core = byte_level(["<pad>", "<image>", "<s>", "<|eot|>", *special], bos="<s>")
    template = ("{{ bos_token }}" if template_writes_bos else "") + LLAMA3
    return ports_with(core, template, special, pad_token="<pad>", eos_token="<|eot|>", bos_token="<s>")


def pad_is_eos() -> tuple[Ports, LlavaProcessor]:
    special = ["<|header|>", "<|/header|>"]
    core = byte_level(["<image>", "<|eot|>", *special])
    return ports_with(core, LLAMA3, special, pad_token="<|eot|>", eos_token="<|eot|>")


def llama2() -> tuple[Ports, LlavaProcessor]:
    core = sentence_piece(["<unk>", "<s>", "</s>", "<image>"])
    return ports_with(
        core, LLAMA2, [], pad_token="</s>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


MAKERS: dict[str, Callable[[], tuple[Ports, LlavaProcessor]]] = {
    "own": own,
    "chatml": chatml,
    "chatml, blanks cut off": lambda: chatml(trim=True),
    "llama3, bos by the tokenizer": llama3,
    "llama3, bos by the template": lambda: llama3(True),
    "pad is eos": pad_is_eos,
    "llama2": llama2,
}
ENDS = {"own": "<|end|>", "chatml": "<|im_end|>", "chatml, blanks cut off": "<|im_end|>", "llama2": " </s>"}


@lru_cache
def made(name: str) -> tuple[Ports, LlavaProcessor]:
    return MAKERS[name]()


def sample(*turns: str, pictures: int = 1) -> Sample:
    """Turns of user and assistant by turns; pictures in the first."""
    roles: tuple[Role, Role] = ("user", "assistant")
    messages = [Message(roles[number % 2], (Text(text),)) for number, text in enumerate(turns)]
    images = tuple(Image(png(number)) for number in range(pictures))
    messages[0] = Message("user", (*images, *messages[0].parts))
    return Sample("x", tuple(messages), tuple(turns[1::2]), Origin("t.csv", 4))


def learned(text: EncodedText, ports: Ports) -> str:
    """What the targets decode to, each run by itself: blanks between answers are not tokens' to decide."""
    targets = text.targets.tolist()
    runs: list[list[int]] = [[]]
    for target in targets:
        if target == IGNORE:
            runs.append([])
        else:
            runs[-1].append(target)
    return "|".join(ports.tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs if run)


def wanted(name: str, answers: Sequence[str]) -> str:
    return "|".join(answer + ENDS.get(name, "<|eot|>") for answer in answers)


ANSWERS = [
    *WORDS,
    "a",
    "Paris",
    "Paris, France.",
    "I don 't know .",
    "x = {1}",
    "tab\tin",
    "two\n\nlines",
    "<b>",
    "</i",
]


@pytest.mark.parametrize("name", MAKERS)
def test_answers_and_ends_alone_are_learned(name: str) -> None:
    ports, _ = made(name)
    for answer in ANSWERS:
        for pictures in (0, 1, 2):
            text = encode(sample("what is it?", answer, pictures=pictures), ports)
            assert learned(text, ports) == wanted(name, [answer])
            image = ports.image
            assert image is not None
            assert (text.tokens == image.placeholder_id).sum() == pictures * image.tokens_per_image
            assert text.targets[-1] == IGNORE


@pytest.mark.parametrize("name", MAKERS)
@given(
    turns=st.lists(st.sampled_from(ANSWERS), min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0)
)
@settings(max_examples=15)
def test_many_turns(name: str, turns: list[str]) -> None:
    ports, _ = made(name)
    item = sample(*turns)
    text = encode(item, ports)
    assert learned(text, ports) == wanted(name, turns[1::2])
    supervised = np.flatnonzero(text.targets != IGNORE)
    assert (text.targets[supervised] == text.tokens[supervised + 1]).all()
    assert set(text.tokens[supervised + 1]) & set(ports.end_ids)


@pytest.mark.parametrize("name", MAKERS)
@given(answer=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12))
@settings(max_examples=40)
def test_any_answer_is_learned_exactly_or_refused(name: str, answer: str) -> None:
    ports, _ = made(name)
    if not answer.strip():
        return
    try:
        text = encode(sample("what?", answer.strip()), ports)
    except DataError:
        # only SentencePiece's own sign for a blank, which reads back as a blank
        assert name == "llama2" and "▁" in answer
    else:
        assert learned(text, ports) == wanted(name, [answer.strip()])


@pytest.mark.parametrize("name", MAKERS)
def test_the_prompt_is_what_stands_before_the_answer(name: str) -> None:
    ports, _ = made(name)
    item = sample("what is it?", "a bird", "sure?", "yes")
    tokens, prompt = encode(item, ports).tokens, encode_prompt(item, ports)
    assert (tokens[: len(prompt)] == prompt).all()
    question = replace(item, messages=item.messages[:-1])
    assert (encode_prompt(question, ports) == prompt).all()


@pytest.mark.parametrize("name", MAKERS)
def test_the_prompt_is_what_the_processor_gives(name: str) -> None:
    """A server that knows `transformers` alone asks with the same tokens."""
    ports, processor = made(name)
    item = sample("what is it?", "a bird")
    turns = as_conversation(item.messages[:1])
    turns[0]["content"][0]["image"] = Pillow.new("RGB", (8, 8))
    given_ = processor.apply_chat_template(
        [turns], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert given_["input_ids"][0] == encode_prompt(item, ports).tolist()


@pytest.mark.parametrize("name", ["llama3, bos by the tokenizer", "llama3, bos by the template", "llama2"])
def test_exactly_one_bos(name: str) -> None:
    ports, _ = made(name)
    tokens = encode(sample("what is it?", "a bird"), ports).tokens
    assert (tokens == ports.tokenizer.bos_token_id).sum() == 1
    assert tokens[0] == ports.tokenizer.bos_token_id


def test_the_end_is_learned_where_it_is_the_padding() -> None:
    ports, _ = made("pad is eos")
    texts = [encode(sample("what?", answer), ports) for answer in ("a", "a: white over red")]
    batch = collate(
        [Example(str(len(text.tokens)), text.tokens, text.targets) for text in texts], ports.pad_id
    )
    (end,) = ports.end_ids
    assert ports.pad_id == end
    assert (batch.targets == end).sum() == 2
    length = len(texts[0].tokens)
    assert (batch.targets[0, length - 1 :] == IGNORE).all()
    assert (batch.inputs["attention_mask"][0, length:] == 0).all()


@pytest.mark.parametrize("name", MAKERS)
def test_control_tokens_in_words_are_refused(name: str) -> None:
    ports, _ = made(name)
    special = [token.content for token in ports.tokenizer.added_tokens_decoder.values()]
    assert "<image>" in special
    for token in special:
        for turns in ((f"what {token}?", "a"), ("what?", f"a{token}")):
            with pytest.raises(DataError, match=r"control token[\s\S]*row 4"):
                encode(sample(*turns), ports)
        with pytest.raises(DataError, match="control token"):
            encode_prompt(sample(f"{token}", "a"), ports)


def test_control_tokens_that_have_no_name_are_refused() -> None:
    core = byte_level(["<pad>", "<image>", "<|im_start|>", "<|im_end|>", "<|reserved|>"])
    ports, _ = ports_with(core, CHATML, [], pad_token="<pad>", eos_token="<|im_end|>")
    assert "<|reserved|>" not in ports.tokenizer.all_special_tokens
    with pytest.raises(DataError, match="the question contains `<|reserved|>`".replace("|", r"\|")):
        encode(sample("what is <|reserved|>?", "a"), ports)


def failing(template: str, *turns: str, **values: object) -> str:
    special = ["<|im_start|>", "<|im_end|>"]
    core = byte_level(["<pad>", "<image>", *special])
    ports, _ = ports_with(core, template, special, pad_token="<pad>", eos_token="<|im_end|>")
    with pytest.raises(DataError) as caught:
        encode(sample(*(turns or ("what?", "a bird")), **values), ports)
    assert caught.value.faults[0].where == "t.csv, row 4"
    assert caught.value.faults[0].mend
    return caught.value.faults[0].what


def test_templates_that_cannot_be_learned_from() -> None:
    assert "0 picture placeholders, the sample 1" in failing(CHATML.replace("{{ '<image>' }}", ""))
    assert "2 picture placeholders, the sample 1" in failing("<image>" + CHATML)
    assert "changes the answer" in failing(CHATML.replace("part['text']", "part['text'] | upper"))
    backwards = CHATML.replace("in messages", "in messages | reverse")
    assert "one after another" in failing(backwards, "what?", "a", "and?", "b")
    no_prompt = CHATML[: CHATML.index("{% if add_generation_prompt")]
    assert "changes the answer: it writes '<|im_start|>assistant" in failing(no_prompt)
    refusing = "{% if messages | length > 1 %}{{ raise_exception('one turn alone') }}{% endif %}" + CHATML
    assert "refuses these turns: one turn alone" in failing(refusing)


def test_an_answer_that_nothing_stands_before_is_refused() -> None:
    """No logits come before the first token."""
    alone = Sample("x", (Message("assistant", (Text("a"),)),), ("a",), Origin("t.csv", 4))
    with pytest.raises(DataError, match="the first turn is an answer"):
        encode(alone, tiny_ports())
    silent = (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}" + BODY + "{{ '<|im_end|>' }}"
    )
    what = failing(silent + "{% endif %}{% endfor %}", pictures=0)
    assert what.startswith("the tokens to learn read")


def test_a_blank_that_joins_the_answer_is_refused() -> None:
    """The prompt would end in a token of its own that training never saw."""
    open_end = CHATML.replace("assistant\n", "assistant: ").replace(
        "message['role'] + '\n'", "message['role'] + ': '"
    )
    core = byte_level(["<pad>", "<image>", "<|im_start|>", "<|im_end|>"])
    core.train_from_iterator(
        ["assistant: bird"] * 9,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<pad>", "<image>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    ports, _ = ports_with(core, open_end, [], pad_token="<pad>", eos_token="<|im_end|>")
    with pytest.raises(DataError, match="the tokens to learn read"):
        encode(sample("what?", "bird"), ports)


def test_a_sample_without_an_answer_is_refused() -> None:
    with pytest.raises(DataError, match="no answer to learn from"):
        encode(sample("what?"), tiny_ports())


def test_too_long() -> None:
    ports = tiny_ports()
    fits = encode(sample("what?", "a"), ports).tokens
    short = replace(ports, context=len(fits))
    assert len(encode(sample("what?", "a"), short).tokens) == len(fits)
    with pytest.raises(
        DataError, match=f"the sample has {len(fits)} tokens, the model takes {len(fits) - 1}"
    ):
        encode(sample("what?", "a"), replace(ports, context=len(fits) - 1))


def test_a_question_too_long() -> None:
    ports, asked = tiny_ports(), sample("what? " * 30)
    with pytest.raises(DataError, match=r"the question has \d+ tokens, the model takes 95"):
        encode_prompt(asked, ports)


def test_pictures_for_a_model_that_takes_none() -> None:
    ports = replace(tiny_ports(), image=None)
    with pytest.raises(DataError, match="takes no pictures"):
        encode(sample("what?", "a"), ports)


def test_digests() -> None:
    base = sample("what?", "a")
    others = [
        sample("what", "a"),
        sample("what?", "b"),
        sample("what?", "a", pictures=0),
        sample("what?", "a", pictures=2),
        sample("what?", "a", "and?", "b"),
        replace(base, references=("a", "b")),
        replace(base, references=("b",)),
        replace(base, messages=(Message("system", base.messages[0].parts), base.messages[1])),
        replace(base, messages=(Message("user", (Image(png(0)), Text("wh"), Text("at?"))), base.messages[1])),
    ]
    assert len({sample_digest(item) for item in (base, *others)}) == len(others) + 1
    assert sample_digest(base) == sample_digest(sample("what?", "a"))
