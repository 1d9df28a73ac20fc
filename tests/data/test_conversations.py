"""Conversations in every notation that people bring, and what the row is told where something is amiss."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_lists import CAT, DOG, FISH, WAV, base64_of, counted, opened, picture, sample_of, shown

from finesight.core.errors import DataError
from finesight.core.sample import Audio, Image

LLAVA = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "Sure?"},
    {"from": "gpt", "value": "Yes."},
]
OPENAI = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A cat."},
]
SEEN = ["user: [cat]What is it?", "assistant: A cat.", "user: Sure?", "assistant: Yes."]


def test_llava() -> None:
    sample = sample_of("llava", {"id": "7", "image": CAT, "conversations": LLAVA})
    assert shown(sample) == SEEN
    assert (sample.id, sample.references, sample.prompt) == ("row-1", ("Yes.",), "Sure?")
    assert shown(sample_of("llava", {"image": [CAT], "conversations": LLAVA})) == SEEN
    assert shown(sample_of("json", {"image": CAT, "conversations": LLAVA})) == SEEN
    assert shown(sample_of("csv", {"image": CAT, "conversations": json.dumps(LLAVA)})) == SEEN


def test_llava_rows_without_a_picture() -> None:
    words = [{"from": "human", "value": "Two and two?"}, {"from": "gpt", "value": "Four."}]
    source = opened("llava", {"conversations": words}, {"image": CAT, "conversations": LLAVA})
    samples = [source.sample(index) for index in range(2)]
    assert [shown(sample) for sample in samples if sample] == [
        ["user: Two and two?", "assistant: Four."],
        SEEN,
    ]


def test_tags_stand_where_they_are_written() -> None:
    turns = [
        {"from": "system", "value": "Look."},
        {"from": "human", "value": "Is <image> or <image>\n the larger one?  \n"},
        {"from": "gpt", "value": "The first."},
        {"from": "human", "value": "And this?\n<image>"},
        {"from": "gpt", "value": "A fish."},
    ]
    sample = sample_of("llava", {"image": [CAT, DOG, FISH], "conversations": turns})
    assert shown(sample) == [
        "system: Look.",
        "user: Is [cat] or [dog]\n the larger one?",
        "assistant: The first.",
        "user: And this?[fish]",
        "assistant: A fish.",
    ]
    kept = sample_of("llava", {"image": [CAT, DOG, FISH], "conversations": turns}, text={"strip": False})
    assert shown(kept)[3] == "user: And this?\n[fish]"


@pytest.mark.parametrize(("role", "seen"), [("human", "user"), ("user", "user"), ("gpt", "assistant")])
def test_names_of_roles(role: str, seen: str) -> None:
    turns = [{"from": role, "value": "a"}] if seen == "user" else [LLAVA[2], {"from": role, "value": "a"}]
    assert sample_of("messages", {"conversations": turns}).messages[-1].role == seen


def test_openai() -> None:
    seen = ["system: Be brief.", "user: What is it?", "assistant: A cat."]
    assert shown(sample_of("messages", {"messages": OPENAI})) == seen
    assert shown(sample_of("text", {"messages": OPENAI})) == seen
    assert shown(sample_of("text", {"messages": json.dumps(OPENAI)})) == seen
    sample = sample_of("messages", {"messages": OPENAI[1:]}, system="Be kind.")
    assert shown(sample)[0] == "system: Be kind."
    assert shown(sample_of("messages", {"messages": OPENAI}, system="Be kind.")) == seen
    row = {"messages": OPENAI[1:], "system": "Be quick."}
    assert shown(sample_of("messages", row, system="Be kind."))[0] == "system: Be quick."


URI = f"data:image/png;base64,{base64_of(CAT)}"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": URI}},
        {"type": "image_url", "image_url": {"url": URI, "detail": "low"}},
        {"type": "image_url", "image_url": URI},
        {"type": "input_image", "image_url": URI},
        {"type": "image", "image": CAT},
        {"type": "image", "image": {"bytes": picture(CAT), "path": "gone.png"}},
        {"type": "image", "image": {"bytes": None, "path": CAT}},
        {"type": "image", "path": CAT},
        {"type": "image", "url": URI},
        {"type": "image", "base64": base64_of(CAT)},
        {"type": "image", "text": None, "image": CAT},
        {"image": CAT},
    ],
)
def test_pictures_within_turns(part: dict[str, Any]) -> None:
    turns = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is "}, part, {"type": "text", "text": " this?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    ]
    assert shown(sample_of("messages", {"messages": turns})) == [
        "user: What is [cat] this?",
        "assistant: A cat.",
    ]
    words = opened("messages", {"messages": turns}).sample(0, pictures=False)
    assert words is not None and words.images == (Image(b""),)


PLACES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and "}, {"type": "image"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Both."}]},
    {"role": "user", "content": [{"type": "text", "text": "this:"}, {"type": "image"}]},
    {"role": "assistant", "content": "A fish."},
]


def test_places_take_the_pictures_of_the_row_in_order() -> None:
    """TRL's vision format."""
    seen = ["user: [cat]and[dog]", "assistant: Both.", "user: this:[fish]", "assistant: A fish."]
    row = {"messages": PLACES, "images": [CAT, DOG, {"bytes": picture(FISH)}]}
    assert shown(sample_of("messages", row)) == seen
    numbered = json.loads(json.dumps(PLACES))
    numbered[0]["content"][0]["index"], numbered[0]["content"][2]["index"] = 1, 0
    numbered[2]["content"][1]["index"] = 2
    row = {"messages": numbered, "images": [DOG, CAT, FISH]}
    assert shown(sample_of("messages", row)) == seen


def test_pictures_without_a_place_stand_before_the_first_question() -> None:
    """TRL's vision format, where the content is text alone."""
    row = {"messages": OPENAI, "images": [CAT, DOG]}
    assert shown(sample_of("messages", row))[1] == "user: [cat][dog]What is it?"
    assert counted("messages", row, row) == {
        ("place", "rows.json: pictures without a place stand before the first question"): 2
    }


def test_llama_factory() -> None:
    turns = [{"role": "user", "content": "<image>Who?<image>"}, {"role": "assistant", "content": "They."}]
    row = {"messages": turns, "images": [CAT, DOG]}
    assert shown(sample_of("llava", row)) == ["user: [cat]Who?[dog]", "assistant: They."]
    with pytest.raises(DataError, match=r"the words hold `<image>`[\s\S]*`source: llava`"):
        sample_of("messages", row)
    row = {"conversations": LLAVA, "images": [CAT], "system": "Look."}
    assert shown(sample_of("messages", row)) == ["system: Look.", *SEEN]


def test_tags_in_the_words_of_other_notations_stay_words() -> None:
    turns = [{"role": "user", "content": "What does <image> mean?"}, OPENAI[2]]
    assert shown(sample_of("messages", {"messages": turns})) == [
        "user: What does <image> mean?",
        "assistant: A cat.",
    ]
    listed = [
        {"role": "user", "content": [{"type": "text", "text": "<image>"}, {"type": "image"}]},
        OPENAI[2],
    ]
    assert shown(sample_of("messages", {"messages": listed, "image": CAT}))[0] == "user: <image>[cat]"
    row = {"image": CAT, "question": "<image> what?", "answer": "a <image>"}
    assert shown(sample_of("json", row)) == ["user: [cat]<image> what?", "assistant: a <image>"]


def test_a_tag_that_a_rule_makes_stays_a_word() -> None:
    """NFKC turns ＜ into <."""
    turns = [{"from": "human", "value": "<image>＜image＞"}, LLAVA[1]]
    sample = sample_of("llava", {"image": CAT, "conversations": turns}, text={"unicode": "NFKC"})
    assert shown(sample)[0] == "user: [cat]<image>"


def test_sounds() -> None:
    data = __import__("base64").b64encode(WAV).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    turns = [{"role": "user", "content": [part, {"type": "text", "text": "Who sings?"}]}, OPENAI[2]]
    sample = sample_of("messages", {"messages": turns})
    assert sample.sounds == (Audio(WAV),)
    row = {"conversations": LLAVA, "image": CAT, "audio": WAV}
    assert shown(sample_of("llava", row))[0] == "user: [cat][sound]What is it?"
    tagged = [{"from": "human", "value": "<audio>Who? <image>"}, LLAVA[1]]
    row = {"conversations": tagged, "image": CAT, "audio": [{"bytes": WAV}]}
    assert shown(sample_of("llava", row))[0] == "user: [sound]Who?[cat]"


def test_trl_prompt_and_completion() -> None:
    prompt = [*OPENAI, {"role": "user", "content": "Sure?"}]
    row = {"prompt": prompt, "completion": [{"role": "assistant", "content": "Yes."}]}
    sample = sample_of("messages", row)
    assert shown(sample) == [
        "system: Be brief.",
        "user: What is it?",
        "assistant (read): A cat.",
        "user: Sure?",
        "assistant: Yes.",
    ]
    assert sample.references == ("Yes.",)
    row = {**row, "images": [CAT]}
    assert shown(sample_of("json", row))[1] == "user: [cat]What is it?"


def test_answers_that_are_not_to_be_learned() -> None:
    turns = [OPENAI[1], {**OPENAI[2], "weight": 0}, LLAVA[2], {"from": "gpt", "value": "Yes.", "weight": 1}]
    assert [turn.learn for turn in sample_of("messages", {"messages": turns}).messages] == [
        True,
        False,
        True,
        True,
    ]


def test_keys_that_are_not_read_are_counted() -> None:
    turns = [{**OPENAI[1], "name": "Ann", "refusal": None}, {**OPENAI[2], "name": "Bob"}]
    assert counted("text", {"messages": turns}) == {
        ("unused", "rows.json: key `name` of turns is not read"): 2
    }


def test_turns_as_a_typed_table_keeps_them() -> None:
    turns = {"from": ["human", "gpt"], "value": ["<image>What?", "A cat."]}
    assert shown(sample_of("hub", {"image": CAT, "conversations": turns})) == [
        "user: [cat]What?",
        "assistant: A cat.",
    ]


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}, OPENAI[2]]


BROKEN: list[tuple[str, dict[str, Any], str, str, str]] = [
    (
        "llava",
        {"conversations": LLAVA},
        "conversations",
        "the turns have 1 `<image>` tag, the row has 0 pictures",
        "`columns`",
    ),
    (
        "llava",
        {"image": [CAT, DOG], "conversations": LLAVA},
        "image",
        "1 `<image>` tag, the row has 2 pictures",
        "each",
    ),
    (
        "llava",
        {"image": "", "conversations": LLAVA},
        "image",
        "1 `<image>` tag, the row has 0 pictures",
        "each",
    ),
    (
        "llava",
        {"image": CAT, "conversations": LLAVA[2:]},
        "image",
        "0 `<image>` tags, the row has 1 picture",
        "each",
    ),
    ("llava", {"image": "gone.png", "conversations": LLAVA}, "image", "there is no file", "path"),
    ("llava", {"image": [CAT, None], "conversations": LLAVA}, "image", "picture 2 of 2 is empty", "fill"),
    ("llava", {"image": CAT, "conversations": []}, "conversations", "the conversation is empty", "fill"),
    ("llava", {"image": CAT, "conversations": "hello"}, "conversations", "not a list of turns", "role"),
    ("llava", {"image": CAT, "conversations": None}, "conversations", "the conversation is empty", "role"),
    ("llava", {"image": CAT, "conversations": ["hi"]}, "conversations", "the turn is not a mapping", "role"),
    (
        "llava",
        {"image": CAT, "conversations": LLAVA[1:]},
        "conversations",
        "the first turn is an answer",
        "before",
    ),
    (
        "llava",
        {"conversations": [{"from": "judge", "value": "a"}]},
        "conversations",
        "the turn is of `judge`",
        "`human`",
    ),
    ("llava", {"conversations": [{"value": "a"}]}, "conversations", "no `role` and no `from`", "`human`"),
    (
        "llava",
        {"image": CAT, "conversations": [LLAVA[2], {"from": "gpt", "value": "<image>"}]},
        "conversations",
        "the answer holds a picture",
        "user",
    ),
    ("messages", {"messages": user(" ")}, "messages", "the turn is empty", "fill"),
    ("messages", {"messages": user(None)}, "messages", "the turn is empty", "fill"),
    ("messages", {"messages": user([])}, "messages", "the turn is empty", "fill"),
    ("messages", {"messages": user([7])}, "messages", "neither text nor a mapping", "type"),
    ("messages", {"messages": user([{"type": "video"}])}, "messages", "of the type `video`", "type"),
    ("messages", {"messages": user([{"words": "a"}])}, "messages", "has no `type`", "type"),
    (
        "messages",
        {"messages": user([{"type": "image"}])},
        "messages",
        "1 place for a picture, the row has 0",
        "`columns`",
    ),
    (
        "messages",
        {"messages": PLACES, "images": [CAT]},
        "images",
        "3 places for a picture, the row has 1 pic",
        "each",
    ),
    ("messages", {"messages": [OPENAI[0]]}, "messages", "no turn but the system's", "user"),
    ("messages", {"messages": [*OPENAI[1:], OPENAI[0]]}, "messages", "turn 3 is the system's", "before"),
    (
        "messages",
        {"messages": [OPENAI[1], {"role": "tool", "content": "4"}]},
        "messages",
        "the turn is a tool's: `tool`",
        "take such rows out",
    ),
    (
        "messages",
        {"messages": [OPENAI[1], {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]},
        "messages",
        "a tool's: `tool_calls`",
        "take",
    ),
    (
        "messages",
        {"messages": user([{"type": "image_url", "image_url": {"url": "http://a.b/c.png"}}])},
        "messages",
        "the picture is a web address",
        "`data.allow_urls: true`",
    ),
    ("json", {"messages": OPENAI}, "messages", "the conversation has no picture", "`source: messages`"),
    (
        "text",
        {"messages": user([{"type": "image", "image": CAT}])},
        "messages",
        "words alone",
        "`source: messages`",
    ),
    (
        "text",
        {"conversations": LLAVA},
        "conversations",
        "1 `<image>` tag, the row has 0 pictures",
        "tags|places",
    ),
]


@pytest.mark.parametrize(("kind", "row", "column", "what", "mend"), BROKEN)
def test_rows_that_cannot_be_used(kind: str, row: dict[str, Any], column: str, what: str, mend: str) -> None:
    with pytest.raises(DataError) as caught:
        sample_of(kind, row)
    fault = caught.value.faults[0]
    assert what in fault.what
    assert any(word in fault.mend for word in mend.split("|")), fault.mend
    assert fault.where.startswith(f"rows.json, row 1, column `{column}`")
    assert caught.value.column == column


def test_the_turn_is_named() -> None:
    turns = [*OPENAI, {"role": "user", "content": ""}]
    with pytest.raises(DataError, match=r"rows\.json, row 1, column `messages`, turn 4"):
        sample_of("messages", {"messages": turns})


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda text: text.strip() and not {"<image>", "<audio>"} & {text}
)


@given(
    st.lists(
        st.tuples(
            st.lists(st.one_of(TEXTS, st.sampled_from([CAT, DOG, FISH])), min_size=1, max_size=5), TEXTS
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_conversation_comes_through_both_notations(rounds: list[tuple[list[str], str]]) -> None:
    """What was written is what the sample holds, in place; parts of text side by side are one text."""
    names = (CAT, DOG, FISH)
    tagged, parts, images = [], [], []
    for asked, answer in rounds:
        images += [piece for piece in asked if piece in names]
        tagged += [
            {"from": "human", "value": "".join("<image>" if piece in names else piece for piece in asked)},
            {"from": "gpt", "value": answer},
        ]
        content = [
            {"type": "image"} if piece in names else {"type": "text", "text": piece} for piece in asked
        ]
        parts += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    if any("<image>" in piece or "<audio>" in piece for asked, _ in rounds for piece in asked):
        return
    keep = {"strip": False}
    one = sample_of("llava", {"image": images, "conversations": tagged}, text=keep)
    other = sample_of("messages", {"images": images, "messages": parts}, text=keep)
    wanted = []
    for asked, answer in rounds:
        words = "".join(f"[{piece.split('/')[1][:-4]}]" if piece in names else piece for piece in asked)
        wanted += [f"user: {words}", f"assistant: {answer}"]
    assert shown(one) == shown(other) == wanted
    assert one.references == (rounds[-1][1],)
