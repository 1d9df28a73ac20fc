"""Samples that are too long: what each policy leaves out, and that a picture is never cut."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from row_files import png
from test_chat_templates import ENDS, conversation, learned_of, made

from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.core.sample import Audio, Image, Message, Origin, Sample, Text
from finesight.data.encode import encode, encode_prompt
from finesight.data.lengths import Limit, OnLong, TooLong, droppable, without_turns

LONG = conversation(
    "what is it?",
    "a bird",
    "and this?",
    "a flag: white over red",
    "sure?",
    "yes",
    system="Be brief.",
    pictures=(1, 2),
)
"""One picture in the first question, two in the second."""


def length(sample: Sample, name: str = "qwen") -> int:
    return len(encode(sample, made(name)).tokens)


def limit(on_long: OnLong, tokens: int) -> Limit:
    return Limit(on_long, tokens)


def test_what_fits_is_left_as_it_is() -> None:
    whole = encode(LONG, made("qwen"))
    for on_long in ("stop", "skip", "drop_turns", "cut_answer"):
        text = encode(LONG, made("qwen"), limit(on_long, len(whole.tokens)))
        assert (text.tokens == whole.tokens).all() and (text.targets == whole.targets).all()
        assert (text.dropped, text.note) == (0, "")


@pytest.mark.parametrize("on_long", ["stop", "skip"])
def test_too_long_is_an_error_of_its_own(on_long: OnLong) -> None:
    most = length(LONG) - 1
    with pytest.raises(TooLong, match=f"the sample has {most + 1} tokens, the model takes {most}") as caught:
        encode(LONG, made("qwen"), limit(on_long, most))
    assert caught.value.faults[0].where == "t.csv, row 4"
    assert "`data.on_long`" in caught.value.faults[0].mend
    assert isinstance(caught.value, DataError)


def test_the_model_s_context_holds_whatever_the_recipe_says() -> None:
    ports = replace(made("qwen"), context=length(LONG) - 1)
    with pytest.raises(TooLong):
        encode(LONG, ports, limit("stop", 10_000))
    assert Limit("stop", None).most(7) == Limit("stop", 9).most(7) == 7
    assert Limit("stop", 5).most(7) == 5


# dropping turns


@pytest.mark.parametrize("name", ENDS)
def test_whole_rounds_go_from_the_start(name: str) -> None:
    ports = made(name)
    shorter = [without_turns(LONG, dropped) for dropped in (0, 2, 4)]
    lengths = [length(sample, name) for sample in shorter]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) == 3
    for number, (sample, tokens) in enumerate(zip(shorter, lengths, strict=True)):
        for most in (tokens, (lengths[number - 1] - 1) if number else tokens):
            text = encode(LONG, ports, limit("drop_turns", most))
            assert text.dropped == 2 * number
            assert text.tokens.tolist() == encode(sample, ports).tokens.tolist()
            assert text.targets.tolist() == encode(sample, ports).targets.tolist()
            assert (text.note != "") == (number > 0)
    assert (
        "4 turns left out from the start: the sample has"
        in encode(LONG, ports, limit("drop_turns", lengths[2])).note
    )
    with pytest.raises(TooLong):
        encode(LONG, ports, limit("drop_turns", lengths[2] - 1))


def test_pictures_go_with_their_turns() -> None:
    assert [len(without_turns(LONG, dropped).images) for dropped in (0, 2, 4)] == [3, 2, 0]
    assert without_turns(LONG, 2).images == LONG.images[1:]
    assert [turn.role for turn in without_turns(LONG, 4).messages] == ["system", "user", "assistant"]
    image = made("qwen").image
    assert image is not None
    for dropped, pictures in ((0, 3), (2, 2), (4, 0)):
        tokens = encode(LONG, made("qwen"), limit("drop_turns", length(without_turns(LONG, dropped)))).tokens
        assert (tokens == image.placeholder_id).sum() == pictures * image.tokens_per_image


def test_what_may_be_left_out() -> None:
    def roles(letters: str, learn: Sequence[bool] | None = None) -> Sample:
        named = {"s": "system", "u": "user", "a": "assistant"}
        turns = [Message(named[letter], (Text("x"),)) for letter in letters]  # type: ignore[arg-type]
        if learn:
            turns = [replace(turn, learn=value) for turn, value in zip(turns, learn, strict=True)]
        return Sample("x", tuple(turns), (), Origin("t", 1))

    assert droppable(roles("suauaua")) == [2, 4]
    assert droppable(roles("uaua")) == [2]
    assert droppable(roles("ua")) == droppable(roles("sua")) == []
    assert droppable(roles("uuaauua")) == [4]  # a round may have several turns of a side
    assert droppable(roles("uauau")) == [2]  # the last question has no answer to learn from
    assert droppable(roles("uauau"), ask=True) == [2, 4]
    assert droppable(roles("uauaua", [True, True, True, True, True, False])) == [2]
    assert without_turns(roles("suaua"), 2) == roles("sua")


# cutting answers


@pytest.mark.parametrize("name", ENDS)
def test_a_cut_answer_does_not_learn_to_end(name: str) -> None:
    ports = made(name)
    answer = "a flag: white over red, and then some more words: x = {1}"
    sample = conversation("what?", "a bird", "and this?", answer, pictures=(1, 1))
    whole, prompt = encode(sample, ports), encode_prompt(sample, ports)
    for most in range(len(prompt) + 2, len(whole.tokens)):
        text = encode(sample, ports, limit("cut_answer", most))
        assert len(text.tokens) <= most
        assert (text.tokens == whole.tokens[: len(text.tokens)]).all()
        first, cut = learned_of(text, ports)
        assert (
            first.lstrip(" ") == "a bird" + ENDS[name]
        )  # the answers before are whole, and so are their ends
        assert answer.startswith(cut.strip())
        assert not set(text.tokens[len(prompt) :].tolist()) & set(ports.end_ids) or cut == answer
        assert text.targets[-1] == IGNORE
        assert text.note.startswith("the answer is cut after ")
        assert (text.targets[len(prompt) - 1 : -1] == text.tokens[len(prompt) :]).all()
    with pytest.raises(TooLong):
        encode(sample, ports, limit("cut_answer", len(prompt)))


def test_the_end_of_an_answer_that_nearly_fits_is_not_learned() -> None:
    """The end token alone was cut: then the whole answer is learned, and no end."""
    sample, ports = conversation("what?", "a bird"), made("qwen")
    whole = encode(sample, ports)
    end = int(np.flatnonzero(whole.targets != IGNORE)[-1]) + 1
    text = encode(sample, ports, limit("cut_answer", end))
    assert learned_of(text, ports) == ["a bird"]
    assert set(ports.end_ids).isdisjoint(text.targets.tolist())


@settings(max_examples=40)
@given(st.text(st.sampled_from("aé日🇨🇦 b\n"), min_size=2, max_size=20), st.data())
def test_no_half_of_a_character_is_learned(answer: str, data: st.DataObject) -> None:
    answer = answer.strip()
    assume(answer)
    sample, ports = conversation("what?", answer), made("qwen")
    whole, prompt = encode(sample, ports), encode_prompt(sample, ports)
    most = data.draw(st.integers(len(prompt), len(whole.tokens) - 1))
    try:
        text = encode(sample, ports, limit("cut_answer", most))
    except TooLong:
        return
    (cut,) = learned_of(text, ports)
    assert "\N{REPLACEMENT CHARACTER}" not in cut
    assert cut and answer.startswith(cut)


def test_a_question_is_never_cut() -> None:
    sample = conversation("what? " * 20, "a bird")
    with pytest.raises(TooLong):
        encode(sample, made("qwen"), limit("cut_answer", 40))
    ends_in_a_question = replace(LONG, messages=LONG.messages[:-1])
    with pytest.raises(TooLong):
        encode(ends_in_a_question, made("qwen"), limit("cut_answer", length(ends_in_a_question) - 1))


PICTURES = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple)


@pytest.mark.proof
@settings(max_examples=60)
@given(PICTURES, st.sampled_from(["drop_turns", "cut_answer"]), st.integers(8, 220), st.booleans())
def test_a_picture_is_never_cut(pictures: tuple[int, ...], on_long: OnLong, most: int, system: bool) -> None:
    texts = [
        text for number in range(len(pictures)) for text in (f"what is {number}?", f"it is {number}" * 3)
    ]
    sample, ports = (
        conversation(*texts, pictures=pictures, system="Be brief." if system else ""),
        made("qwen"),
    )
    image = ports.image
    assert image is not None
    try:
        text = encode(sample, ports, limit(on_long, most))
    except TooLong:
        return
    assert len(text.tokens) <= most
    kept = without_turns(sample, text.dropped)
    assert (text.tokens == image.placeholder_id).sum() == len(kept.images) * image.tokens_per_image
    assert kept.images == sample.images[len(sample.images) - len(kept.images) :]
    assert (text.targets != IGNORE).any()
    assert kept.messages[-2:] == sample.messages[-2:]


# questions alone


def test_a_question_without_an_answer_is_encoded_to_be_answered() -> None:
    ports = made("qwen")
    question = replace(LONG, messages=LONG.messages[:-1], references=())
    text = encode(question, ports, answering=True)
    assert text.tokens.tolist() == encode_prompt(question, ports).tolist()
    assert (text.targets == IGNORE).all() and len(text.targets) == len(text.tokens)
    alone = replace(question, messages=question.messages[:2])
    assert encode(alone, ports, answering=True).tokens.tolist() == encode_prompt(alone, ports).tolist()
    with pytest.raises(DataError, match="no answer to learn from"):
        encode(alone, ports)
    answered = encode(LONG, ports, answering=True)
    assert answered.targets.tolist() == encode(LONG, ports).targets.tolist()


def test_a_question_may_lose_the_rounds_before_it() -> None:
    ports = made("qwen")
    question = replace(LONG, messages=LONG.messages[:-1], references=())
    last = encode_prompt(without_turns(question, 4), ports)
    text = encode(question, ports, limit("drop_turns", len(last) + 1), answering=True)
    assert text.tokens.tolist() == encode_prompt(without_turns(question, text.dropped), ports).tolist()
    assert text.dropped == 4 and text.note.startswith("4 turns left out")
    narrow = replace(ports, context=len(last))  # there is no room for a token of the answer
    with pytest.raises(TooLong, match=f"the question has {len(encode_prompt(question, ports))} tokens"):
        encode(question, narrow, limit("drop_turns", 10_000), answering=True)


# rows that are far too long


def test_a_row_of_many_megabytes_takes_no_minutes() -> None:
    """Neither its tokens are made, nor a conversation rendered once for each of its turns."""
    began = time.process_time()
    words = conversation("what?", "a bird " * 3_000_000)
    turns = conversation(*["what?", "a bird"] * 5_000, pictures=(1,))
    for sample in (words, turns):
        for on_long in ("stop", "skip", "cut_answer"):
            with pytest.raises(TooLong, match="more than 200 tokens"):
                encode(sample, made("qwen"), limit(on_long, 200))
    with pytest.raises(TooLong):
        encode(words, made("qwen"), limit("drop_turns", 200))
    with pytest.raises(TooLong, match="the question has more than 255 tokens"):
        encode_prompt(turns, made("qwen"))
    text = encode(turns, made("qwen"), limit("drop_turns", 200))
    assert 100 < len(text.tokens) <= 200
    assert text.note.endswith("the sample has more than 200 tokens, the model takes 200")
    assert time.process_time() - began < 30


# senses


def test_sounds_for_a_model_without_ears() -> None:
    heard = Sample(
        "x",
        (Message("user", (Audio(b"RIFF"), Text("who?"))), Message("assistant", (Text("a"),))),
        ("a",),
        Origin("t.csv", 4),
    )
    for ask in (encode, encode_prompt):
        with pytest.raises(DataError, match=r"takes no sounds[\s\S]*row 4"):
            ask(heard, made("qwen"))


def test_words_alone_for_a_model_with_pictures() -> None:
    ports = made("qwen")
    image = ports.image
    assert image is not None
    text = encode(conversation("what?", "a bird", "sure?", "yes"), ports)
    assert image.placeholder_id not in text.tokens
    assert learned_of(text, ports) == ["a bird<|im_end|>", "yes<|im_end|>"]


def test_pictures_between_words() -> None:
    ports = made("qwen")
    image = ports.image
    assert image is not None
    parts = (Text("is "), Image(png(1)), Text(" or "), Image(png(2)), Text(" red?"))
    sample = Sample(
        "x", (Message("user", parts), Message("assistant", (Text("yes"),))), ("yes",), Origin("t.csv", 4)
    )
    shown = ports.tokenizer.decode(encode(sample, ports).tokens.tolist())
    assert f"is {image.placeholder * 4} or {image.placeholder * 4} red?" in shown
