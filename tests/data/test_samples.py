"""What a row's columns mean: guesses, prompts, pictures; and what a row that cannot be used is told."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from row_files import cell, csv_source, folder_source, png, read, rows, write_csv

from finesight.core.errors import DataError
from finesight.core.sample import Image, Sample, Text
from finesight.data.samples import DEFAULT_PROMPT, open_rows
from finesight.runtime.notices import Notices


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def first(source: Any) -> Sample:
    sample = open_rows(source, "table").sample(0)
    assert sample is not None
    return sample


def one(file: Path, **values: str) -> Path:
    return write_csv(file, [{"image": cell(), "caption": "a bird", **values}])


def test_a_sample(file: Path) -> None:
    write_csv(file, [{"i": cell(5), "q": "what?", "a": " a bird \n", "name": "x1", "kind": "k", "of": "g"}])
    columns = {"image": "i", "question": "q", "answer": "a", "id": "name"}
    sample = first(csv_source(file, columns=columns, tags=("kind", "of"), group="of"))
    question, answer = sample.messages
    assert (question.role, question.parts) == ("user", (Image(png(5)), Text("what?")))
    assert (answer.role, answer.parts) == ("assistant", (Text("a bird"),))
    assert (sample.id, sample.references, sample.group) == ("x1", ("a bird",), "g")
    assert sample.tags == {"kind": "k", "of": "g"}
    assert str(sample.origin) == f"{file}, row 1"


def test_guesses_are_said(file: Path) -> None:
    write_csv(file, [{"path": "x", "b64string_images": cell(), "text": "t", "caption": "c", "query": "q"}])
    notices = Notices()
    samples, _ = read(csv_source(file), notices)
    assert (samples[0].prompt, samples[0].references) == ("q", ("c",))
    assert [row["text"] for row in notices.rows()] == [
        f"{file}: column `b64string_images` is taken as the image",
        f"{file}: column `query` is taken as the question",
        f"{file}: column `caption` is taken as the answer",
    ]
    notices = Notices()
    read(
        csv_source(file, columns={"image": "b64string_images", "answer": "caption"}, prompt="What?"), notices
    )
    assert notices.rows() == []


def test_a_guess_takes_no_column_that_has_a_meaning(file: Path) -> None:
    write_csv(file, [{"image": cell(), "text": "what?", "label": "yes"}])
    sample = first(csv_source(file, columns={"question": "text"}))
    assert (sample.prompt, sample.references) == ("what?", ("yes",))


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (None, DEFAULT_PROMPT),
        ("Describe it.", "Describe it."),
        ("Is it {kind}?", "Is it a {k}?"),
        ("{kind}{a b!r:>9}{x.y}{0}", "a {k}unusual"),
        ('Answer {{"a": 1}} of {kind}', 'Answer {"a": 1} of a {k}'),
        ("{{{kind}}}", "{a {k}}"),
    ],
)
def test_prompts(file: Path, prompt: str | None, text: str) -> None:
    one(file, **{"kind": "a {k}", "a b!r:>9": "un", "x.y": "usu", "0": "al"})
    assert first(csv_source(file, prompt=prompt)).prompt == text


@pytest.mark.parametrize("prompt", ["a { b", "a } b", "{kind", "{{}"])
def test_a_single_brace_in_a_prompt(file: Path, prompt: str) -> None:
    one(file, kind="x")
    with pytest.raises(DataError, match=r"is a single `[{}]`[\s\S]*write `(\{\{|\}\})`"):
        first(csv_source(file, prompt=prompt))


def test_prompt_and_question_column(file: Path) -> None:
    one(file, question="what?")
    notices = Notices()
    samples, _ = read(csv_source(file, prompt="Say!", columns={"question": "question"}), notices)
    assert samples[0].prompt == "Say!"
    assert any("`prompt` is asked, not the column `question`" in str(row["text"]) for row in notices.rows())
    notices = Notices()
    samples, _ = read(csv_source(file, prompt="Say: {question}", columns={"question": "question"}), notices)
    assert samples[0].prompt == "Say: what?"
    assert not any(row["kind"] == "unused" for row in notices.rows())


def test_all_missing_columns_at_once(file: Path) -> None:
    one(file, kind="x")
    source = csv_source(
        file,
        columns={"image": "imge", "answer": "reply"},
        where={"part": "a"},
        tags=("kind", "artist"),
        group="country",
        prompt="{colour}?",
    )
    with pytest.raises(DataError) as caught:
        open_rows(source)
    told = {(fault.what, fault.where) for fault in caught.value.faults}
    keys = {"imge": "columns.image", "reply": "columns.answer", "part": "where", "artist": "tags"}
    keys |= {"country": "group", "colour": "prompt"}
    assert told == {
        (f"there is no column `{name}`", f"{file}, `{key}` of the source") for name, key in keys.items()
    }
    assert all(fault.mend.endswith("it has `image`, `caption`, `kind`") for fault in caught.value.faults)
    assert caught.value.faults[0].mend.startswith("did you mean `image`?")


def test_no_column_looks_like_it(file: Path) -> None:
    write_csv(file, [{"a": "x", "b": "y"}])
    with pytest.raises(DataError) as caught:
        open_rows(csv_source(file))
    assert [fault.what for fault in caught.value.faults] == [
        "no column looks like the image",
        "no column looks like the answer",
    ]
    assert all("`columns." in fault.mend and "`a`, `b`" in fault.mend for fault in caught.value.faults)


BROKEN = [
    ({"image": ""}, "image", "there is no picture"),
    ({"image": cell()[:41] + "!" + cell()[42:]}, "image", "character 42, '!', does not belong in base64"),
    ({"image": cell()[:61]}, "image", "cut short"),
    ({"image": cell()[:60]}, "image", "the picture"),
    ({"image": base64.b64encode(b"no picture at all").decode()}, "image", "picture"),
    ({"image": "missing.png"}, "image", "there is no file"),
    ({"image": "a\0.png"}, "image", "null"),
    ({"image": "n" * 300 + ".png"}, "image", "cannot be read"),
    ({"image": "loop.png"}, "image", "loop.png"),
    ({"image": "folder.png"}, "image", "there is no file"),
    ({"image": "text.png"}, "image", "picture"),
    ({"image": "../secret.png"}, "image", "leads out of the folder"),
    ({"image": "below/../../secret.png"}, "image", "leads out of the folder"),
    ({"image": "/etc/hosts.png"}, "image", "leads out of the folder"),
    ({"image": "link.png"}, "image", "leads out of the folder"),
    ({"image": "https://example.org/a.png"}, "image", "web address"),
    ({"caption": ""}, "caption", "the answer is empty"),
    ({"caption": " \t"}, "caption", "the answer is empty"),
    ({"question": " "}, "question", "the question is empty"),
    ({"id": ""}, "id", "the id is empty"),
    ({"id": "second"}, "id", "the id `second` is that of"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "folder.png").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "good.png").write_bytes(png(1))
    (folder / "text.png").write_text("no picture")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "inner.png").symlink_to(folder / "good.png")
    return folder


@pytest.mark.parametrize(("values", "column", "what"), BROKEN)
def test_bad_rows(folder: Path, values: dict[str, str], column: str, what: str) -> None:
    good = {"image": cell(), "caption": "a bird", "question": "what?", "id": "second"}
    table = [good, {**good, "id": "third", **values}, {**good, "id": "fourth"}]
    (folder / "rows.json").write_text(json.dumps(table))
    source = folder_source(folder, columns={"id": "id"})
    with pytest.raises(DataError, match=what.replace("`", ".")) as caught:
        read(source)
    fault = caught.value.faults[0]
    assert fault.where.startswith(f"{folder}/rows.json, row 2")
    assert fault.mend
    assert caught.value.column == column
    samples, policy = read(source, on_bad_row="skip")
    assert samples.ids == ("second", "fourth")
    (seen,) = policy.faults
    assert (seen.file, seen.row, seen.column) == (f"{folder}/rows.json", 2, column)
    assert what in seen.reason
    assert len(str(caught.value)) < 1000


def test_picture_paths(folder: Path) -> None:
    names = [
        "good.png",
        "./good.png",
        " good.png ",
        "folder.png/../good.png",
        "inner.png",
        str(folder / "good.png"),
    ]
    (folder / "rows.json").write_text(json.dumps([{"image": name, "caption": "x"} for name in names]))
    samples, _ = read(folder_source(folder))
    assert all(samples[index].images[0].data == png(1) for index in range(len(names)))


def test_csv_paths_are_below_root_or_beside_the_file(folder: Path, tmp_path: Path) -> None:
    write_csv(folder / "t.csv", [{"image": "good.png", "caption": "x"}])
    assert len(read(csv_source(folder / "t.csv"))[0]) == 1
    write_csv(tmp_path / "t.csv", [{"image": "good.png", "caption": "x"}])
    assert len(read(csv_source(tmp_path / "t.csv", root=str(folder)))[0]) == 1
    with pytest.raises(DataError, match="there is no file"):
        read(csv_source(tmp_path / "t.csv"))


def test_base64_forms(file: Path) -> None:
    text = cell(3)
    forms = [
        text,
        f"data:image/png;base64,{text}",
        text.rstrip("="),
        text.replace("+", "-").replace("/", "_"),
    ]
    forms += [text[:40] + "\n" + text[40:], f" {text}\n"]
    write_csv(file, [{"image": form, "caption": "x"} for form in forms])
    samples, _ = read(csv_source(file))
    assert all(samples[index].images[0].data == png(3) for index in range(len(forms)))


def test_where_tags_and_max_samples(file: Path) -> None:
    write_csv(file, rows(9))
    samples, _ = read(csv_source(file, where={"kind": "kind 1"}, tags=("kind",)))
    assert samples.ids == ("table-2", "table-5", "table-8")
    assert samples[0].tags == {"kind": "kind 1"}
    both = {"kind": ("kind 0", "kind 1"), "group": "group 0"}
    assert read(csv_source(file, where=both))[0].ids == ("table-1", "table-2", "table-4")
    assert read(csv_source(file, where={"kind": ("kind 0", "kind 1")}, max_samples=3))[0].ids == (
        "table-1",
        "table-2",
        "table-4",
    )
    assert read(csv_source(file, max_samples=99))[0].ids == tuple(
        f"table-{number}" for number in range(1, 10)
    )


def test_rows_beyond_max_samples_are_not_read(file: Path) -> None:
    write_csv(file, [*rows(2), {**rows(1)[0], "image": "?"}])
    assert len(read(csv_source(file, max_samples=2))[0]) == 2


def test_rows_that_where_leaves_out_may_be_bad(file: Path) -> None:
    write_csv(file, [*rows(2), {**rows(1)[0], "image": "?", "kind": "bad"}])
    assert len(read(csv_source(file, where={"kind": ("kind 0", "kind 1")}))[0]) == 2


def test_ids_are_unique_over_sources(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "table.csv", rows(2))
    samples, _ = read(tuple(csv_source(tmp_path / name / "table.csv") for name in ("a", "b", "a")))
    assert samples.ids == ("table-1-1", "table-1-2", "table-2-1", "table-2-2", "table-3-1", "table-3-2")
    assert [str(samples[index].origin.file) for index in (0, 2)] == [
        str(tmp_path / name / "table.csv") for name in ("a", "b")
    ]


def test_words_are_the_sample_without_its_pictures(file: Path) -> None:
    write_csv(file, rows(2))
    samples, _ = read(csv_source(file))
    words = samples.words(1)
    assert [turn.text for turn in words.messages] == [turn.text for turn in samples[1].messages]
    assert (words.id, words.images) == (samples[1].id, (Image(b""),))


def test_shipped_data_as_people_bring_it() -> None:
    flags = csv_source(
        Path("shipped:flags/flags.csv"),
        columns={"image": "b64string_images", "answer": "caption"},
        prompt="Describe the picture.",
        tags=("artist",),
        max_samples=20,
    )
    samples, policy = read(flags)
    assert samples.ids[0] == "flags-1"
    assert {samples[index].prompt for index in range(20)} == {"Describe the picture."}
    things = folder_source(
        "shipped:things", prompt="Which {kind} is it?", columns={"answer": "name"}, max_samples=20
    )
    samples, policy = read(things)
    assert samples.ids[19] == "things-20"
    assert samples[0].prompt.startswith("Which a vehicle")
    assert policy.faults == []
