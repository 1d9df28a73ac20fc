"""Words encoded once: the same by workers and from the cache; what is too long is listed."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from row_files import cell, data, png, read, rows, tiny_ports, write_csv

from finesight.config.sources import CsvSource, LlavaSource
from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.data import encoded
from finesight.data.dataset import ExampleSet, prepare_pictures
from finesight.data.encode import encode
from finesight.data.lengths import Limit
from finesight.data.outline import lines, outline
from finesight.data.passes import passing
from finesight.data.passes.passing import Means
from finesight.data.policy import Policy
from finesight.data.sets import SampleSet, read_samples
from finesight.runtime.notices import Notices


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, which keeps what takes no time, too."""
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(passing, "_WORTH", -1.0)


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the samples that are encoded."""
    seen: list[str] = []
    real = encoded.encode
    monkeypatch.setattr(
        encoded, "encode", lambda sample, *rest: seen.append(sample.id) or real(sample, *rest)
    )
    return seen


def table(path: Path, count: int = 600) -> CsvSource:
    """Rows of which every seventh is too long."""
    found = rows(count)
    for number, row in enumerate(found):
        row["image"] = cell(number % 3)
        if number % 7 == 2:
            row["caption"] = "long " * 60 + str(number)
    return CsvSource(source="csv", path=str(write_csv(path, found)), columns={"answer": "caption"})


def samples_of(source: Any) -> SampleSet:
    return read_samples(source, Policy(data(source)), Notices(), "train")


def content(examples: ExampleSet) -> list[tuple[str, bytes, bytes]]:
    found = []
    for index in range(len(examples)):
        example = examples[0, index]
        found.append((example.id, example.tokens.tobytes(), example.targets.tobytes()))
    return found


def test_cold_warm_and_by_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encodings: list[str]
) -> None:
    monkeypatch.setattr(encoded, "_PATIENCE", 0)
    samples, ports = samples_of(table(tmp_path / "t.csv")), tiny_ports()
    wanted, faults = [], 0
    for index in range(len(samples)):
        try:
            text = encode(samples.words(index), ports)
        except DataError:
            faults += 1
            continue
        wanted.append((samples.id(index), text.tokens.tobytes(), text.targets.tobytes()))
    found = {}
    for how, jobs in (("cold", 0), ("warm", 0), ("workers", 2)):
        if how == "workers":
            os.environ["FINESIGHT_CACHE"] += "-other"
        encodings.clear()
        policy = Policy(data(samples.row(0)[0].source, on_bad_row="skip"))
        examples = ExampleSet(samples, ports, policy, means=Means(jobs))
        assert content(examples) == wanted
        assert len(policy.faults) == faults
        assert len(encodings) == (600 if how == "cold" else 0)
        lengths = [len(tokens) // 4 for _, tokens, _ in wanted]
        assert examples.lengths.tolist() == lengths
        assert examples.tokens == sum(lengths)
        learned = [int((np.frombuffer(targets, np.int32) != IGNORE).sum()) for _, _, targets in wanted]
        assert examples.supervised_lengths.tolist() == learned
        assert examples.supervised == sum(learned)
        found[how] = (examples.fingerprint, [fault.row for fault in policy.faults])
    assert found["cold"] == found["warm"] == found["workers"]


def test_examples_are_small_when_they_are_sent(tmp_path: Path) -> None:
    samples = samples_of(table(tmp_path / "t.csv"))
    examples = ExampleSet(samples, tiny_ports(), Policy(data(samples.row(0)[0].source, on_bad_row="skip")))
    sent = pickle.dumps(examples)
    assert len(sent) < 20 * len(examples) + 10_000 + len(pickle.dumps(samples.row(0)[0]))
    assert content(pickle.loads(sent)) == content(examples)


@pytest.mark.parametrize("what", ["words", "limit", "ports", "samples"])
def test_what_changes_is_encoded_again(tmp_path: Path, encodings: list[str], what: str) -> None:
    source = table(tmp_path / "t.csv", 20)
    samples, ports, limit = samples_of(source), tiny_ports(), Limit("skip")
    policy = Policy(data(source))
    before = ExampleSet(samples, ports, policy, limit=limit)
    if what == "words":
        source = CsvSource(source="csv", path=source.path, prompt="Other?", columns={"answer": "caption"})
        samples = samples_of(source)
    elif what == "limit":
        limit = Limit("skip", 60)
    elif what == "ports":
        ports = replace(ports, fingerprint="other")
    else:
        samples = samples.take(range(19))
    encodings.clear()
    after = ExampleSet(samples, ports, policy, limit=limit)
    assert len(encodings) == len(samples)
    assert after.fingerprint != before.fingerprint


def test_what_is_too_long_is_left_out_and_listed(tmp_path: Path) -> None:
    samples = samples_of(table(tmp_path / "t.csv", 20))
    for _ in range(2):
        policy, notices = Policy(data(samples.row(0)[0].source)), Notices()
        examples = ExampleSet(
            samples, tiny_ports(), policy, limit=Limit("skip"), name="val", means=Means(notices=notices)
        )
        assert [examples[0, index].id for index in range(17)] == [
            f"t-{number}" for number in range(1, 21) if number % 7 != 3
        ]
        assert policy.faults == []
        assert [fault.row for fault in policy.listed] == [3, 10, 17]
        assert all("tokens, the model takes 96" in fault.reason for fault in policy.listed)
        (notice,) = notices.rows()
        assert (notice["kind"], notice["count"]) == ("long", 3)
        assert str(notice["text"]).startswith("val: samples that are too long are left out")


def test_what_is_cut_is_listed(tmp_path: Path) -> None:
    samples = samples_of(table(tmp_path / "t.csv", 20))
    policy, notices = Policy(data(samples.row(0)[0].source)), Notices()
    examples = ExampleSet(
        samples, tiny_ports(), policy, limit=Limit("cut_answer"), means=Means(notices=notices)
    )
    assert len(examples) == 20
    assert examples.lengths.max() == 96
    assert [fault.row for fault in policy.listed] == [3, 10, 17]
    assert notices.rows()[0]["text"] == (
        "train: samples that are too long lost the end of their answer (`data.on_long`)"
    )


def test_dropped_turns_take_their_pictures_along(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    turns = [
        {"from": role, "value": ("<image>" if role == "human" else "") + f"{word} {number}"}
        for number in range(3)
        for role, word in (("human", "what is in this picture, if it is one?"), ("gpt", "an answer"))
    ]
    row = {"conversations": turns, "images": ["0.png", "1.png", "2.png"]}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    source = LlavaSource(source="llava", path=str(tmp_path / "t.jsonl"))
    samples, ports = samples_of(source), replace(tiny_ports(), context=10_000)
    whole = len(encode(samples.words(0), ports).tokens)
    policy = Policy(data(source))
    examples = ExampleSet(samples, ports, policy, limit=Limit("drop_turns", whole - 2))
    pictures = examples[0, 0].pictures
    assert len(pictures) == len(examples.sample(0).images) == 2
    wanted = prepare_pictures(samples[0], ports)[1:]
    assert all((one == two).all() for one, two in zip(pictures, wanted, strict=True))
    assert examples.prompt(0).tolist() == examples[0, 0].tokens[: len(examples.prompt(0))].tolist()
    assert "2 turns left out" in policy.listed[0].reason


def test_a_tokenizer_that_cannot_be_sent_works_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "_PATIENCE", 0)
    monkeypatch.setattr(encoded, "_MANY", 10)
    samples, ports = samples_of(table(tmp_path / "t.csv", 40)), tiny_ports()
    render = ports.render
    stuck = replace(ports, render=lambda messages, ask: render(messages, ask))
    notices = Notices()
    policy = Policy(data(samples.row(0)[0].source, on_bad_row="skip"))
    examples = ExampleSet(samples, stuck, policy, means=Means(2, notices=notices))
    assert len(examples) == 34
    assert [notice["kind"] for notice in notices.rows()] == ["fallback"]


# the outline


def test_the_outline_says_what_is_there(tmp_path: Path) -> None:
    found = rows(12)
    found[7] = {**found[2]}
    found[9] = {**found[2]}
    val = [*rows(20)[15:], found[2], found[4]]
    sets = {}
    for name, part in (("train", found), ("val", val)):
        samples, policy = read(CsvSource(source="csv", path=str(write_csv(tmp_path / f"{name}.csv", part))))
        sets[name] = ExampleSet(samples, tiny_ports(), policy, name=name)
    facts = outline(sets)
    lengths = sorted(sets["train"].lengths.tolist())
    assert facts["train"]["samples"] == 12
    assert facts["train"]["twice"] == 2
    assert "in_train" not in facts["train"]
    assert facts["val"]["in_train"] == 2
    assert facts["train"]["lengths"]["most"] == lengths[-1]
    assert facts["train"]["lengths"]["p50"] == lengths[5]
    assert facts["train"]["tokens"] == sum(lengths)
    said = lines(facts)
    assert "2 come twice" in said[0]
    assert "2 are also in train" in said[1]
    assert facts["val"]["longest"] in said[1]
    assert str(tmp_path) in facts["val"]["longest"]
