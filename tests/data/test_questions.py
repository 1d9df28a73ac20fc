"""Rows with a question and an answer: several pictures and answers, sounds, guesses, pairs of texts."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from row_lists import CAT, DOG, FISH, WAV, base64_of, counted, opened, picture, sample_of, shown

from finesight.core.errors import DataError
from finesight.core.sample import Audio, Image
from finesight.data.samples import DEFAULT_PROMPT, Access
from finesight.data.shapes.values import as_text, has_column

ROW = {"image": CAT, "question": "What is it?", "answer": "A cat."}
SEEN = ["user: [cat]What is it?", "assistant: A cat."]


@pytest.mark.parametrize(
    "image",
    [
        CAT,
        f" {CAT}\n",
        picture(CAT),
        bytearray(picture(CAT)),
        base64_of(CAT),
        f"data:image/png;base64,{base64_of(CAT)}",
        {"bytes": picture(CAT), "path": "gone.png"},
        {"bytes": base64_of(CAT), "path": None},
        {"bytes": None, "path": CAT},
        {"path": CAT},
        {"base64": base64_of(CAT)},
        [CAT],
        (base64_of(CAT),),
        [{"bytes": picture(CAT), "path": None}],
        json.dumps([CAT]),
    ],
)
def test_forms_of_a_picture(image: Any) -> None:
    source = opened("json", {**ROW, "image": image})
    sample, words = source.sample(0), source.sample(0, pictures=False)
    assert sample is not None and words is not None
    assert shown(sample) == SEEN
    assert shown(words)[0] == "user: []What is it?"


def test_several_pictures_stand_before_the_question_in_order() -> None:
    for images in ([CAT, {"bytes": picture(DOG)}, base64_of(FISH)], json.dumps([CAT, DOG, FISH])):
        assert shown(sample_of("json", {**ROW, "image": images}))[0] == "user: [cat][dog][fish]What is it?"
    words = opened("json", {**ROW, "image": [CAT, DOG]}).sample(0, pictures=False)
    assert words is not None and words.images == (Image(b""), Image(b""))


def test_a_path_in_brackets_is_a_path(tmp_path: Any) -> None:
    (tmp_path / "[1].png").write_bytes(picture(CAT))
    from row_lists import ListReader

    from finesight.config.sources import JsonSource
    from finesight.data.samples import rows_of

    reader = ListReader([{**ROW, "image": "[1].png"}], root=tmp_path)
    sample = rows_of(reader, JsonSource(source="json", path="x")).sample(0)
    assert sample is not None and shown(sample) == SEEN


def test_sounds_beside_pictures() -> None:
    for audio in (WAV, base64.b64encode(WAV).decode(), {"bytes": WAV, "path": "a.wav"}):
        sample = sample_of("json", {**ROW, "audio": audio})
        assert shown(sample)[0] == "user: [cat][sound]What is it?"
        assert sample.sounds == (Audio(WAV),)
    words = opened("json", {**ROW, "audio": WAV}).sample(0, pictures=False)
    assert words is not None and words.sounds == (Audio(b""),)
    row = {"audio": WAV, "question": "Who sings?", "text": "A bird."}
    assert shown(sample_of("json", row)) == ["user: [sound]Who sings?", "assistant: A bird."]


# answers


def test_the_references_are_all_answers() -> None:
    ten = ["cat", "a cat", "cat", "kitten", " cat ", "", "dog", "cat", "cat", "a cat"]
    for given in (ten, [{"answer": text, "answer_id": 1} for text in ten], json.dumps(ten)):
        sample = sample_of("vqa", {**ROW, "answers": given})
        assert sample.references == ("cat", "a cat", "cat", "kitten", "cat", "dog", "cat", "cat", "a cat")
        assert shown(sample) == SEEN
    row = {**ROW, "answers": ten}
    assert counted("vqa", row) == {("dropped", "rows.json: empty references"): 1}


def test_the_most_frequent_reference_is_learned_where_no_answer_is() -> None:
    row = {"image": CAT, "question": "What?", "answers": ["b", "a", "a", "b", "c"]}
    source = opened("vqa", row)
    sample = source.sample(0)
    assert sample is not None and shown(sample)[1] == "assistant: b"
    assert ("guess", "rows.json: of the `answers` of a row the most frequent is learned") in source.said
    row = {"image": CAT, "caption": ["a cat", "a kitten", "a kitten"]}
    sample = sample_of("json", row)
    assert (shown(sample)[1], sample.references) == ("assistant: a kitten", ("a cat", "a kitten", "a kitten"))


def test_one_caption_in_the_place_of_several() -> None:
    sample = sample_of("json", {"image": CAT, "captions": "a cat"})
    assert (shown(sample), sample.references) == (
        [f"user: [cat]{DEFAULT_PROMPT}", "assistant: a cat"],
        ("a cat",),
    )


def test_an_answer_that_looks_like_a_list_is_text() -> None:
    assert sample_of("json", {**ROW, "answer": "[1, 2]"}).references == ("[1, 2]",)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (2.5, "2.5"), (True, "true"), (False, "false"), (0, "0"), (b"caf\xc3\xa9", "café")],
)
def test_numbers_and_truth_values_are_text(value: Any, text: str) -> None:
    assert sample_of("json", {**ROW, "answer": value}).references == (text,)
    assert sample_of("json", {**ROW, "n": value}, prompt="Is it {n}?").prompt == f"Is it {text}?"


def test_what_is_no_text() -> None:
    assert as_text(float("nan"), "here") == as_text(None, "here") == ""
    for value in ([1], {"a": 1}, b"\xff", "\ud83d"):
        with pytest.raises(DataError, match="here"):
            as_text(value, "here", "c")


def test_challenge_rows_can_be_answered() -> None:
    """COCO's and VizWiz' test sets have no captions."""
    for row in (
        {"image": CAT, "image_id": 7},
        {"image": CAT, "image_id": 7, "caption": None, "references": []},
    ):
        sample = sample_of("coco", row)
        assert (shown(sample), sample.references) == ([f"user: [cat]{DEFAULT_PROMPT}"], ())
    sample = sample_of("coco", {"image": CAT, "image_id": 7, "references": ["a cat", "a kitten"]})
    assert (shown(sample)[1], sample.references) == ("assistant: a cat", ("a cat", "a kitten"))
    with pytest.raises(DataError, match="no column looks like the answer"):
        sample_of("json", {"image": CAT})


# names of columns


def columns_of(kind: str, row: Mapping[str, Any], **recipe: Any) -> dict[str, str]:
    found = opened(kind, row, **recipe).columns.model_dump()
    return {role: column for role, column in found.items() if column is not None}


GUESSES: list[tuple[str, str, dict[str, str]]] = [
    ("json", "Image Caption", {"image": "Image", "answer": "Caption"}),
    ("json", "image_path text", {"image": "image_path", "answer": "text"}),
    ("json", "images query response", {"image": "images", "question": "query", "answer": "response"}),
    (
        "json",
        "image instruction input output text",
        {"image": "image", "question": "instruction", "answer": "output"},
    ),
    (
        "json",
        "image prompt completion text",
        {"image": "image", "question": "prompt", "answer": "completion"},
    ),
    ("vqa", "image question answer answers", {"image": "image", "question": "question", "answer": "answer"}),
    (
        "vqa",
        "image question multiple_choice_answer",
        {"question": "question", "answer": "multiple_choice_answer"},
    ),
    ("tar", "jpg txt", {"image": "jpg", "answer": "txt"}),
    ("text", "question answer", {"question": "question", "answer": "answer"}),
    (
        "messages",
        "instruction output system",
        {"question": "instruction", "answer": "output", "system": "system"},
    ),
    ("pairs", "id source target", {"question": "source", "answer": "target"}),
    ("pairs", "Input Output more", {"question": "Input", "answer": "Output"}),
    ("pairs", "text summary title", {"question": "text", "answer": "summary"}),
    ("pairs", "article highlights id", {"question": "article", "answer": "highlights"}),
    ("pairs", "id de en", {"question": "de", "answer": "en"}),
    ("pairs", "this that", {"question": "this", "answer": "that"}),
]


@pytest.mark.parametrize(("kind", "names", "wanted"), GUESSES)
def test_known_names(kind: str, names: str, wanted: dict[str, str]) -> None:
    row = {name: CAT if "ima" in name.lower() or name == "jpg" else f"the {name}" for name in names.split()}
    if "answers" in row:
        row["answers"], wanted = ["a"], {**wanted, "references": "answers"}
    found = columns_of(kind, row)
    assert wanted.items() <= found.items()
    source = opened(kind, row)
    assert source.sample(0) is not None
    guessed = {f"rows.json: column `{column}` is taken as the {role}" for role, column in found.items()}
    assert guessed <= {text for kind_, text in source.said if kind_ == "guess"}


def test_names_in_the_recipe_come_first() -> None:
    row = {**ROW, "caption": "other", "messages": "no list", "kind": "k"}
    assert columns_of("json", row, columns={"answer": "caption", "question": "kind"}) == {
        "image": "image",
        "question": "kind",
        "answer": "caption",
    }
    assert columns_of("pairs", {"a": "1", "b": "2", "c": "3"}, columns={"question": "c", "answer": "a"}) == {
        "question": "c",
        "answer": "a",
    }
    assert columns_of("pairs", {"a": "1", "b": "2"}, columns={"answer": "a"})["question"] == "b"
    row = {"n": 1, "src": "a", "tgt": "b"}
    assert columns_of("pairs", row, columns={"question": "src"})["answer"] == "tgt"
    row = {"n": "1", "x": "a", "y": "b", "g": "c"}
    assert columns_of("pairs", row, columns={"id": "n"}, group="g")["question"] == "x"


def test_alpaca() -> None:
    row = {
        "instruction": "Add them.",
        "input": "1, 2",
        "output": "3",
        "text": "Add them. 1, 2: 3",
        "system": "Count.",
    }
    assert shown(sample_of("text", row)) == ["system: Count.", "user: Add them.\n1, 2", "assistant: 3"]
    assert shown(sample_of("text", {**row, "input": ""}))[1] == "user: Add them."
    row["history"] = [["One?", "1"], ["Two?", "2"]]
    assert shown(sample_of("text", row)) == [
        "system: Count.",
        "user: One?",
        "assistant: 1",
        "user: Two?",
        "assistant: 2",
        "user: Add them.\n1, 2",
        "assistant: 3",
    ]
    with pytest.raises(DataError, match=r"round 2[\s\S]*fill"):
        sample_of("text", {**row, "history": [["a", "b"], ["c"]]})
    assert shown(sample_of("text", row, prompt="{instruction}"))[-2] == "user: Add them."


def test_translations() -> None:
    """The form that `datasets` and the examples of `transformers` have."""
    row = {"id": "1", "translation": {"en": "a cat", "fr": "un chat"}}
    assert shown(sample_of("pairs", row)) == ["user: a cat", "assistant: un chat"]
    turned = {"question": "translation.fr", "answer": "translation.en"}
    assert shown(sample_of("pairs", row, columns=turned)) == ["user: un chat", "assistant: a cat"]
    prompt = "Into French: {translation.en}"
    assert shown(sample_of("pairs", row, prompt=prompt, columns={"answer": "translation.fr"})) == [
        "user: Into French: a cat",
        "assistant: un chat",
    ]
    assert has_column(["a"], "a.b") and not has_column(["b"], "a.b") and not has_column(["a"], "b")


def test_pairs_with_a_prompt() -> None:
    row = {"en": "a cat", "fr": "un chat"}
    assert shown(sample_of("pairs", row, prompt="{en} in French?")) == [
        "user: a cat in French?",
        "assistant: un chat",
    ]
    assert shown(sample_of("pairs", row, prompt="{fr} in English?")) == [
        "user: un chat in English?",
        "assistant: a cat",
    ]
    row = {"source": "a", "target": "b", "n": "1"}
    assert shown(sample_of("pairs", row, prompt="{n}: {source}")) == ["user: 1: a", "assistant: b"]


def test_what_is_not_read_is_said() -> None:
    said = opened("text", {"question": "a", "answer": "b", "image": CAT, "tools": "[]"}).said
    assert {text for kind, text in said if kind == "unused"} == {
        "rows.json: column `image` is not read",
        "rows.json: column `tools` is not read",
    }


def test_rows_without_a_picture_in_sources_that_take_them() -> None:
    source = opened("messages", ROW, {**ROW, "image": ""})
    assert [shown(sample) for sample in (source.sample(0), source.sample(1)) if sample] == [
        SEEN,
        ["user: What is it?", "assistant: A cat."],
    ]
    assert shown(sample_of("hub", {"question": "a", "answer": "b"})) == ["user: a", "assistant: b"]


def test_columns_that_are_needed_alone_are_read() -> None:
    source = opened(
        "json", {**ROW, "more": 1, "kind": "k", "part": "p", "name": "n"}, tags=("kind",), where={"part": "p"}
    )
    assert source.layout.needed == {"image", "question", "answer", "kind", "part"}


# truth values


@pytest.mark.parametrize("value", [True, "true", "True", "TRUE"])
def test_truth_values_are_compared_without_case(value: Any) -> None:
    row = {**ROW, "known": value}
    for wanted in ("true", "True", ("no", "true")):
        assert opened("json", row, where={"known": wanted}).sample(0) is not None
    assert opened("json", row, where={"known": "false"}).sample(0) is None
    assert opened("json", {**ROW, "known": "Yes"}, where={"known": "yes"}).sample(0) is None


def test_where_compares_numbers_and_gaps_as_text() -> None:
    assert opened("json", {**ROW, "n": 3}, where={"n": "3"}).sample(0) is not None
    assert opened("json", {**ROW, "n": None}, where={"n": ""}).sample(0) is not None


def test_tags_group_and_id_are_text() -> None:
    row = {**ROW, "known": True, "of": 7, "n": 12}
    sample = sample_of("json", row, tags=("known", "of"), group="of", columns={"id": "n"})
    assert (sample.tags, sample.group, sample.id) == ({"known": "true", "of": "7"}, "7", "12")
    assert opened("json", row).text(0, "known") == "true"


# what cannot be


BROKEN: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    ("json", {**ROW, "image": []}, {}, "there is no picture", "image"),
    ("json", {**ROW, "image": None}, {}, "there is no picture", "image"),
    ("json", {**ROW, "image": [CAT, ""]}, {}, "picture 2 of 2 is empty", "image"),
    ("json", {**ROW, "image": [CAT] * 1001}, {}, "the row has 1,001 pictures", "image"),
    ("json", {**ROW, "image": [CAT, [DOG]]}, {}, "a picture cannot be a list in a list", "image"),
    ("json", {**ROW, "image": 7}, {}, "a picture cannot be a number", "image"),
    ("json", {**ROW, "image": {"height": 7}}, {}, "none of the keys `bytes`", "image"),
    ("json", {**ROW, "image": {"bytes": None, "path": None}}, {}, "there is no picture", "image"),
    ("json", {**ROW, "image": "s3://bucket/a.png"}, {}, "is an address", "image"),
    ("json", {**ROW, "image": "file:///etc/a.png"}, {}, "there is no file", "image"),
    ("json", {**ROW, "image": "HTTPS://a.b/c.png"}, {}, "the picture is a web address", "image"),
    ("json", {**ROW, "image": {"url": "https://a.b/c.png"}}, {}, "the picture is a web address", "image"),
    ("json", {**ROW, "image": ["../../README.md", CAT]}, {}, "leads out of the folder", "image"),
    ("json", {**ROW, "audio": "https://a.b/c.wav"}, {}, "the sound is a web address", "audio"),
    ("json", {**ROW, "question": ["what?"]}, {}, "this is a list, not text", "question"),
    ("json", {**ROW, "answer": {"text": "a"}}, {}, "this is a mapping, not text", "answer"),
    ("json", {**ROW, "answer": []}, {}, "the answer is empty", "answer"),
    ("json", {**ROW, "answer": None}, {}, "the answer is empty", "answer"),
    ("json", {**ROW, "answers": ["a", {"other": 1}]}, {}, "this is a mapping, not text", "answers"),
    ("json", {**ROW, "n": [1]}, {"prompt": "{n}?"}, "this is a list, not text", "n"),
    ("pairs", {"en": "a", "fr": " "}, {}, "the answer is empty", "fr"),
    ("pairs", {"en": "", "fr": "b"}, {}, "the question is empty", "en"),
    ("messages", {"image": None, "caption": "b"}, {}, "there is no picture", "image"),
]


@pytest.mark.parametrize(("kind", "row", "recipe", "what", "column"), BROKEN)
def test_rows_that_cannot_be_used(
    kind: str, row: dict[str, Any], recipe: dict[str, Any], what: str, column: str
) -> None:
    with pytest.raises(DataError) as caught:
        sample_of(kind, row, **recipe)
    fault = caught.value.faults[0]
    assert what in fault.what
    assert fault.where.startswith(f"rows.json, row 1, column `{column}`")
    assert fault.mend
    assert caught.value.column == column


REFUSED: list[tuple[str, str, dict[str, Any], str, str]] = [
    (
        "json",
        "question answer",
        {},
        "no column looks like the image",
        "`source: pairs`, `text` or `messages`",
    ),
    ("csv", "question answer", {}, "no column looks like the image", "`source: pairs`, `text` or `messages`"),
    ("text", "answer more", {}, "no column looks like the question", "`columns.question`"),
    ("pairs", "a b c", {}, "no column looks like the question", "`columns.question`"),
    ("llava", "image question answer", {}, "no column looks like the messages", "`columns.messages`"),
    ("text", "answer extra", {}, "no column looks like the question", "give a `prompt`"),
    (
        "text",
        "image question answer",
        {"columns": {"image": "image"}},
        "are words alone",
        "`source: messages`",
    ),
    ("pairs", "a b", {"columns": {"messages": "a"}}, "no conversations", "`source: messages`"),
    (
        "messages",
        "messages",
        {"prompt": "Say!", "columns": {"messages": "messages"}},
        "`prompt` would not be asked",
        "out",
    ),
    ("llava", "conversations", {"prompt": "Say!"}, "`prompt` would not be asked", "out"),
    ("pairs", "a b", {"prompt": "{c}"}, "there is no column `c`", "`a`, `b`"),
]


@pytest.mark.parametrize(("kind", "names", "recipe", "what", "mend"), REFUSED)
def test_sources_that_cannot_be_used(
    kind: str, names: str, recipe: dict[str, Any], what: str, mend: str
) -> None:
    row = dict.fromkeys(names.split(), CAT)
    with pytest.raises(DataError) as caught:
        opened(kind, row, **recipe)
    fault = next(fault for fault in caught.value.faults if what in fault.what)
    assert mend in fault.mend


def test_what_rows_may_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat.png").write_bytes(picture(CAT))
    outside = {**ROW, "image": str(tmp_path / "cat.png")}
    with pytest.raises(DataError, match="leads out of the folder"):
        sample_of("json", outside)
    sample = opened("json", outside, access=Access(allow_outside=True)).sample(0)
    assert sample is not None and shown(sample) == SEEN
    asked = []

    def fetched(url: str, where: str) -> bytes:
        asked.append((url, where))
        return picture(CAT)

    monkeypatch.setattr("finesight.data.files.fetch.fetch_picture", fetched)
    source = opened("json", {**ROW, "image": " https://a.b/c.png "}, access=Access(allow_urls=True))
    sample = source.sample(0)
    assert sample is not None and shown(sample) == SEEN
    assert asked == [("https://a.b/c.png", "rows.json, row 1, column `image`")]


def test_what_changes_a_source() -> None:
    """A cache of what was read from a source goes by this."""
    base = opened("json", ROW)
    others = [
        opened("json", ROW, prompt="What?"),
        opened("json", ROW, access=Access(allow_urls=True)),
        opened("json", ROW, text={"strip": False}),
    ]
    assert len({source.identity() for source in (base, *others)}) == len(others) + 1
    assert base.identity() == opened("json", ROW).identity()
