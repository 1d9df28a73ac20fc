"""Whatever JSON a row holds: a sample, or an error that names the row; never anything else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from row_lists import CAT, ListReader, base64_of
from test_chat_templates import made

from finesight.config.sources import Source
from finesight.core.errors import DataError
from finesight.data.encode import encode
from finesight.data.lengths import Limit
from finesight.data.samples import rows_of

KINDS = (
    "csv",
    "json",
    "vqa",
    "llava",
    "messages",
    "coco",
    "folder",
    "parquet",
    "tar",
    "hub",
    "pairs",
    "text",
)
KEYS = (
    *(
        "role",
        "from",
        "content",
        "value",
        "type",
        "text",
        "image",
        "image_url",
        "url",
        "path",
        "bytes",
        "base64",
    ),
    *("data", "index", "weight", "tool_calls", "answer", "caption", "input_audio", "audio", "messages"),
)
WORDS = (
    *(
        "user",
        "human",
        "gpt",
        "system",
        "text",
        "image",
        "image_url",
        "<image>",
        "<audio>",
        " ",
        "",
        "a",
        "\0",
    ),
    *(
        CAT,
        "data:image/png;base64,",
        base64_of(CAT),
        "http://127.0.0.1/a.png",
        "[1",
        '["a"]',
        "\ud800",
        "../x.png",
    ),
)
LEAVES = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.integers(-2, 2),
        st.floats(),
        st.binary(max_size=4),
        st.sampled_from(WORDS),
    ),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=2)), inner, max_size=4),
    ),
    max_leaves=12,
)
SOME = st.one_of(VALUES, st.sampled_from(["text", "image", "image_url", "input_audio"]))
PART = st.fixed_dictionaries(
    {}, optional={"type": SOME, **dict.fromkeys(KEYS[5:13], VALUES), "image": st.just(CAT)}
)
TURN = st.one_of(
    st.fixed_dictionaries(
        {
            "role": st.one_of(st.sampled_from(["user", "assistant", "system"]), VALUES),
            "content": st.one_of(VALUES, st.lists(PART, max_size=3), st.just("a")),
        },
        optional={"weight": VALUES, "name": VALUES},
    ),
    st.fixed_dictionaries(
        {
            "from": st.sampled_from(["human", "gpt"]),
            "value": st.sampled_from(["<image>a", "a", "<audio>", ""]),
        }
    ),
)
TURNS = st.lists(st.one_of(TURN, TURN, VALUES), max_size=4)
COLUMNS = (
    "image",
    "images",
    "audio",
    "question",
    "answer",
    "answers",
    "caption",
    "system",
    "instruction",
    "input",
)
COLUMNS += ("output", "history", "prompt", "completion", "translation", "source", "target", "id", "text")
ROWS = st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=6)
TALKS = st.one_of(
    ROWS,
    st.builds(lambda row, turns: {**row, "messages": turns}, ROWS, TURNS),
    st.builds(lambda row, turns: {**row, "conversations": turns}, ROWS, TURNS),
    st.builds(lambda row, turns, more: {**row, "prompt": turns, "completion": more}, ROWS, TURNS, TURNS),
)


def check(error: DataError, where: str) -> None:
    """Three parts that a person can read, which name the row."""
    assert all(fault.what and fault.mend and where in fault.where for fault in error.faults)
    assert len(str(error)) < 4000


@pytest.mark.proof
@given(
    kind=st.sampled_from(KINDS),
    rows=st.lists(TALKS, min_size=1, max_size=3),
    prompt=st.sampled_from([None, "What?", "{question}", "{a"]),
    spelling=st.sampled_from(["none", "uk"]),
)
def test_a_sample_or_an_error_that_names_the_row(
    kind: str, rows: list[dict[str, Any]], prompt: str | None, spelling: str
) -> None:
    mapping = {"source": kind, "path": "rows", "text": {"spelling": spelling, "unicode": "NFKC"}}
    source = TypeAdapter(Source).validate_python(mapping if prompt is None else {**mapping, "prompt": prompt})
    try:
        opened = rows_of(ListReader(rows), source)
    except DataError as error:
        check(error, "")
        return
    for index in range(len(rows)):
        found = []
        for pictures in (True, False):
            try:
                found.append(opened.sample(index, pictures))
            except DataError as error:
                check(error, f"rows.json, row {index + 1}")
        if len(found) == 2 and found[0] is not None and found[1] is not None:
            assert len(found[0].images) == len(found[1].images)
            assert [turn.text for turn in found[0].messages] == [turn.text for turn in found[1].messages]
            try:
                encode(found[1], made("qwen"), Limit("drop_turns", 100), answering=True)
            except DataError as error:
                check(error, f"rows.json, row {index + 1}")
