"""Rows with sounds: their words stand in the place of the sounds wherever rows are read."""

import base64
import json
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from speech_files import LEVELS, Pretended, level
from tiny_runs import picture_bytes

from finesight.config.data import Data
from finesight.config.speech import Speech
from finesight.core.errors import DataError, ModelError, RecipeError
from finesight.core.sample import Audio, Image, Message, Origin, Sample, Text
from finesight.data import check, listening
from finesight.data.inspection.surveys import survey_splits
from finesight.data.passes import passing
from finesight.data.policy import Policy
from finesight.data.samples import rows_of
from finesight.data.sets import SampleSet, read_splits
from finesight.data.sounds.ears import Ears
from finesight.data.sounds.hearing import Listening
from finesight.runtime.notices import Notices

Model = tuple[Pretended, str]
NUMBERS = (100, 200, 300, 400)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve rows as JSON Lines: pictures in base64, sounds in files of their own."""
    folder = tmp_path / "rows"
    (folder / "sounds").mkdir(parents=True)
    for number in NUMBERS:
        (folder / "sounds" / f"{number}.wav").write_bytes(level(number))
    lines = [
        {
            "id": f"r{at}",
            "image": base64.b64encode(picture_bytes("red", "blue")).decode(),
            "audio": f"sounds/{NUMBERS[at % 4]}.wav",
            "answer": f"answer {at}",
        }
        for at in range(12)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


def data(rows: Path, model: Model, speech: dict[str, Any] | None = None, **values: Any) -> Data:
    named = {"columns": {"id": "id"}}
    source = {"source": "json", "path": str(rows), **named, **values.pop("source", {})}
    return Data.model_validate(
        {"train": source, "speech": {"model": model[1], **(speech or {})}, **values}, strict=False
    )


def read(
    rows: Path, model: Model, speech: dict[str, Any] | None = None, jobs: int = 0, **values: Any
) -> tuple[SampleSet, Policy, Notices]:
    wanted = data(rows, model, speech, **values)
    policy, notices = Policy(wanted), Notices()
    return read_splits(wanted, 7, policy, notices, jobs=jobs)["train"], policy, notices


def questions(samples: SampleSet) -> list[str]:
    return [samples[at].prompt for at in range(len(samples))]


WORDS = [LEVELS[NUMBERS[at % 4]] for at in range(12)]


def test_the_words_are_the_question_beside_the_picture(rows: Path, model: Model) -> None:
    samples, _, notices = read(rows, model)
    assert questions(samples) == WORDS
    assert [samples.words(at).prompt for at in range(12)] == WORDS
    question = samples[0].messages[0]
    assert [type(part) for part in question.parts] == [Image, Text], "and no prompt that no one gave"
    assert samples[0].images[0].data and not samples.words(0).images[0].data
    assert model[0].heard == list(NUMBERS)
    told = [row for row in notices.rows() if row["kind"] == "speech"]
    assert [row["count"] for row in told] == [12]
    assert model[1] in str(told[0]["text"])


def test_a_second_start_hears_nothing(rows: Path, model: Model) -> None:
    first, _, _ = read(rows, model)
    again, _, notices = read(rows, model)
    assert (again.fingerprint, questions(again)) == (first.fingerprint, WORDS)
    assert model[0].heard == list(NUMBERS)
    assert len(model[0].loaded) == 1
    assert "speech" in [row["kind"] for row in notices.rows()], "what was done is said each time"


@pytest.fixture
def keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each pass took long: its findings are kept."""
    monkeypatch.setattr(passing, "_WORTH", -1.0)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows that are looked at in this process."""
    seen: list[int] = []
    true = check._Look.__call__

    def spy(self: Any, rows: range) -> Any:
        seen.extend(range(rows.start, rows.stop))
        return true(self, rows)

    monkeypatch.setattr(check._Look, "__call__", spy)
    return seen


def test_a_kept_look_at_the_rows_holds_the_words(
    rows: Path, model: Model, keeps_all: None, looks: list[int], clean_cache: Path
) -> None:
    first, _, _ = read(rows, model)
    looks.clear()
    for file in (clean_cache / "transcripts").iterdir():
        file.unlink()
    again, _, _ = read(rows, model)
    assert looks == []
    assert (again.fingerprint, questions(again)) == (first.fingerprint, WORDS)
    assert len(model[0].loaded) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_sound_that_changed_is_heard_anew_and_the_others_are_not(
    rows: Path, model: Model, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "_WORTH", -1.0 if kept else 1e9)
    first, _, _ = read(rows, model)
    place = rows.parent / "sounds" / "100.wav"
    place.write_bytes(level(300, 0.2))
    again, _, _ = read(rows, model)
    assert model[0].heard == [*NUMBERS, 300]
    assert questions(again)[:2] == [LEVELS[300], LEVELS[200]]
    assert again.fingerprint != first.fingerprint


def test_a_sound_that_was_broken_and_is_mended_is_heard(rows: Path, model: Model, keeps_all: None) -> None:
    place = rows.parent / "sounds" / "300.wav"
    whole = place.read_bytes()
    place.write_bytes(b"broken")
    samples, policy, _ = read(rows, model, on_bad_row="skip")
    assert (len(samples), len(policy.faults)) == (9, 3)
    again, policy, _ = read(rows, model, on_bad_row="skip")
    assert (len(again), len(policy.faults)) == (9, 3), "kept"
    place.write_bytes(whole)
    mended, policy, _ = read(rows, model, on_bad_row="skip")
    assert (len(mended), len(policy.faults)) == (12, 0)


def test_the_speech_model_is_released_once_all_is_heard(rows: Path, model: Model) -> None:
    import gc

    samples, _, _ = read(rows, model)
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Ears]
    assert questions(samples) == WORDS


def test_settings_change_the_fingerprint(rows: Path, model: Model) -> None:
    prints = {
        read(rows, model, change)[0].fingerprint
        for change in ({}, {"language": "en"}, {"num_beams": 1}, {"timestamps": True})
    }
    assert len(prints) == 4
    assert read(rows, model, {"device": "cpu"})[0].fingerprint in prints


def test_timestamps_stand_in_the_words(rows: Path, model: Model) -> None:
    samples, _, _ = read(rows, model, {"timestamps": True})
    assert samples[0].prompt == f"[00:00.00 → 00:00.10] {WORDS[0]}"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"no sound", "no sound that can be read"),
        (b"", "the sound is empty"),
        (level(7), "hears no words"),
        (level(100, 2.0), "longer than 1 seconds"),
        (None, "there is no file"),
    ],
)
def test_a_sound_that_cannot_be_used_is_a_bad_row(
    rows: Path, model: Model, content: bytes | None, what: str
) -> None:
    place = rows.parent / "sounds" / "300.wav"
    place.write_bytes(content) if content is not None else place.unlink()
    with pytest.raises(DataError, match=what) as caught:
        read(rows, model, {"max_seconds": 1.0})
    assert f"{rows}, row 3, column `audio`" in caught.value.faults[0].where
    samples, policy, _ = read(rows, model, {"max_seconds": 1.0}, on_bad_row="skip")
    assert len(samples) == 9
    found = [(fault.file, fault.row, fault.column) for fault in policy.faults]
    assert found == [(str(rows), row, "audio") for row in (3, 7, 11)]
    assert all(what in fault.reason for fault in policy.faults)


@pytest.fixture
def in_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all work took long: it goes to worker processes where it may."""
    from finesight.data import encoded
    from finesight.data.inspection import surveys

    for module in (check, listening, encoded, surveys):
        monkeypatch.setattr(module, "_PATIENCE", 0.0)
    monkeypatch.setattr(surveys, "_MANY", 0)


def test_workers_or_none_it_is_the_same(
    rows: Path, model: Model, in_workers: None, keeps_all: None, clean_cache: Path
) -> None:
    found = {}
    for jobs in (2, 0):
        first, _, _ = read(rows, model, jobs=jobs)
        warm, _, _ = read(rows, model, jobs=jobs)
        found[jobs] = [first.ids[:], questions(first), first.fingerprint, warm.fingerprint, questions(warm)]
        assert model[0].heard == list(NUMBERS)
        shutil.rmtree(clean_cache)
        model[0].heard.clear()
    assert found[0] == found[2]


def test_a_set_that_was_sent_to_another_process_knows_its_words(rows: Path, model: Model) -> None:
    import pickle

    samples, _, _ = read(rows, model)
    sent = pickle.loads(pickle.dumps(samples))
    assert questions(sent) == WORDS
    for file in (rows.parent / "sounds").iterdir():
        file.unlink()
    assert sent.words(5).prompt == WORDS[5], "no sound is read again"


def test_splits_and_more_sources_share_one_model(rows: Path, model: Model) -> None:
    source = {"source": "json", "path": str(rows), "columns": {"id": "id"}, "max_samples": 3}
    wanted = data(rows, model, val={"split": 0.25}, test=source)
    found = read_splits(wanted, 7, Policy(wanted), Notices())
    assert [len(found[name]) for name in ("train", "val", "test")] == [9, 3, 3]
    assert questions(found["test"]) == WORDS[:3]
    heard = {samples[at].id: samples[at].prompt for samples in found.values() for at in range(len(samples))}
    assert heard == {f"r{at}": WORDS[at] for at in range(12)}
    assert len(model[0].loaded) == 1


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_shards_keep_the_sounds_and_are_heard_as_the_rows(
    rows: Path, model: Model, tmp_path: Path, kind: Any, keeps_all: None
) -> None:
    import finesight as fs

    source = {"source": "json", "path": str(rows), "columns": {"id": "id"}}
    made = fs.convert(source, tmp_path / "shards", to=kind, jobs=0)
    wanted = Data.model_validate({"train": made["read_back"], "speech": {"model": model[1]}}, strict=False)
    for _ in range(2):
        samples = read_splits(wanted, 7, Policy(wanted), Notices(), jobs=0)["train"]
        assert (questions(samples), samples.ids) == (WORDS, [f"r{at}" for at in range(12)])
    assert model[0].heard == list(NUMBERS)


def test_rows_after_the_last_wanted_one_are_not_heard(tmp_path: Path, model: Model) -> None:
    lines = []
    for number in range(100, 300):
        (tmp_path / f"{number}.wav").write_bytes(level(100, seconds=number / RATE))
        lines.append(json.dumps({"audio": f"{number}.wav", "answer": "yes"}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    samples, _, _ = read(tmp_path / "rows.jsonl", model, source={"max_samples": 5, "columns": {}})
    assert len(samples) == 5
    assert len(model[0].heard) <= listening.FEW_SOUNDS


RATE = 16_000


class ListReader:
    """Rows of a list, kept as they are."""

    file, root, default_group, notes = "rows.json", ".", "", ()

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows, self.columns = rows, tuple(rows[0])

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int, columns: Collection[str] | None = None) -> dict[str, Any]:
        return self.rows[index]

    def origin(self, index: int) -> Origin:
        return Origin(self.file, index + 1)

    def identity(self) -> str:
        return "in memory"


def opened(model: Model, kind: str, *given: dict[str, Any], **recipe: Any) -> Any:
    source = TypeAdapter(_sources()).validate_python({"source": kind, "path": "rows", **recipe})
    own = rows_of(ListReader(given), source)
    return listening.listening(own, Ears(Speech(model=model[1])))


def _sources() -> Any:
    from finesight.config.sources import Source

    return Source


def turns(sample: Sample | None) -> list[tuple[str, ...]]:
    assert sample is not None
    return [
        (turn.role, *(part.text if isinstance(part, Text) else "[picture]" for part in turn.parts))
        for turn in sample.messages
    ]


ONE, TWO = level(100), level(200)


def test_words_stand_where_the_sounds_stood(model: Model) -> None:
    asked = opened(model, "json", {"audio": [ONE, TWO], "question": "Answer both.", "answer": "yes"})
    assert turns(asked.sample(0)) == [
        ("user", f"{LEVELS[100]}\n{LEVELS[200]}\nAnswer both."),
        ("assistant", "yes"),
    ]
    prompted = opened(model, "json", {"audio": ONE, "answer": "yes"}, prompt="Think first.")
    assert turns(prompted.sample(0))[0] == ("user", f"{LEVELS[100]}\nThink first.")
    alone = opened(model, "json", {"audio": ONE, "answer": "yes"})
    assert turns(alone.sample(0)) == [("user", LEVELS[100]), ("assistant", "yes")]
    parts = [
        {"type": "text", "text": "Listen: "},
        {"type": "audio", "audio": ONE},
        {"type": "image", "image": picture_bytes("red", "blue")},
        {"type": "text", "text": "Well"},
        {"type": "text", "text": "?"},
    ]
    talk = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": [{"type": "audio", "audio": TWO}]},
        {"role": "assistant", "content": "A cat."},
    ]
    assert turns(opened(model, "messages", {"messages": talk}).sample(0)) == [
        ("user", f"Listen: {LEVELS[100]}", "[picture]", "Well", "?"),
        ("assistant", "Red."),
        ("user", LEVELS[200]),
        ("assistant", "A cat."),
    ]


def test_words_are_under_the_rules_of_the_source(model: Model) -> None:
    rule = {"spelling": "us"}
    own = opened(model, "json", {"audio": ONE, "answer": "a colour"}, text=rule)
    assert turns(own.sample(0)) == [("user", "What color is it?"), ("assistant", "a color")]


def test_rows_without_sounds_are_as_ever_and_no_model_is_loaded(model: Model) -> None:
    own = opened(model, "json", {"image": picture_bytes("red", "blue"), "answer": "red"})
    assert own.hearing is None
    row = {"image": picture_bytes("red", "blue"), "audio": None, "question": "Why?", "answer": "So."}
    mixed = opened(model, "json", row)
    assert isinstance(mixed.hearing, Listening)
    assert turns(mixed.sample(0))[0] == ("user", "[picture]", "Why?")
    assert model[0].loaded == []


def test_without_speech_the_sounds_are_there_and_ask(model: Model) -> None:
    source = _validated({"source": "json", "path": "rows"})
    sample = rows_of(ListReader([{"audio": ONE, "answer": "yes"}]), source).sample(0)
    assert sample is not None
    assert sample.messages[0] == Message("user", (Audio(ONE),))


def _validated(source: dict[str, Any]) -> Any:
    return TypeAdapter(_sources()).validate_python(source)


def test_a_look_at_a_quick_check_hears_all_the_same(rows: Path, model: Model) -> None:
    quick, _, _ = read(rows, model, check="quick")
    assert questions(quick) == WORDS


@pytest.mark.parametrize("jobs", [0, 2])
def test_an_inspection_hears_too_and_only_what_is_new(
    rows: Path, model: Model, in_workers: None, jobs: int
) -> None:
    def watch(name: str, total: int) -> Callable[[int], object]:
        return bool

    wanted = data(rows, model, val={"split": 0.25})
    for _ in range(2):
        parts = survey_splits(wanted, 7, Notices(), None, jobs, watch)
        heard = {
            parts[name].sample(at).id: parts[name].sample(at, pictures=False).prompt
            for name in parts
            for at in range(len(parts[name]))
        }
        assert heard == {f"r{at}": WORDS[at] for at in range(12)}
        assert model[0].heard == list(NUMBERS)
    few = survey_splits(data(rows, model, {"num_beams": 1}), 7, Notices(), 2, jobs, watch)["train"]
    assert len(few) == 2
    assert len(model[0].heard) == 6, "and no more than the rows that were asked for"


def test_a_file_that_was_touched_is_looked_at_again_and_not_heard(
    rows: Path, model: Model, keeps_all: None, looks: list[int]
) -> None:
    first, _, _ = read(rows, model)
    looks.clear()
    os.utime(rows.parent / "sounds" / "100.wav", ns=(1, 1))
    again, _, _ = read(rows, model)
    assert len(looks) == 12
    assert (model[0].heard, again.fingerprint) == (list(NUMBERS), first.fingerprint)


def test_a_model_that_is_missing_stops_before_any_row_is_bad(rows: Path, clean_cache: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        read(rows, (Pretended(), str(rows.parent / "nothing")), on_bad_row="skip")


def test_a_stream_cannot_be_heard_and_says_so() -> None:
    from finesight.config.load import parse_recipe

    source = {"source": "json", "path": "rows.jsonl", "stream": True}
    mapping = {
        "run": {"name": "x"},
        "model": {"pretrained": "x"},
        "data": {"train": source, "speech": {"model": "small"}},
        "train": {"max_steps": 1, "batch_size": 1},
    }
    with pytest.raises(RecipeError, match="`train` is a stream"):
        parse_recipe(mapping)


def test_many_words_are_found_by_their_rows() -> None:
    from finesight.data.sounds.hearing import Heard, columns_of

    words = [[f"{row} {at} ü" for at in range(row % 3)] for row in range(1000)]
    rows = np.arange(0, 2000, 2)
    heard = Heard("x", {"rows": rows, **columns_of(words)})
    for at, row in enumerate(rows.tolist()):
        assert list(heard.words(row, [Audio(b"")] * (at % 3), "here")) == words[at]
    with pytest.raises(DataError, match="not those that were transcribed"):
        heard.words(1, [Audio(b"")], "here")
    with pytest.raises(DataError, match="not those that were transcribed"):
        heard.words(2, [Audio(b"")] * 2, "here")
