import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finesight.core.errors import DataError, Fault
from finesight.core.prediction import Comparison, Prediction, Score
from finesight.evaluation.table import FAULTS_AT_ONCE, dump, parse, read, results_document

TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\n\r\u2028\u0085é👍'), max_size=6)

PREDICTIONS = st.builds(
    Prediction,
    id=TEXTS,
    origin=TEXTS.filter(bool),
    prompt=TEXTS,
    prediction=TEXTS,
    references=st.lists(TEXTS, max_size=3).map(tuple),
    tags=st.dictionaries(TEXTS, TEXTS, max_size=2),
    group=TEXTS,
)


def faults(text: str) -> tuple[Fault, ...]:
    with pytest.raises(DataError) as caught:
        parse(text.splitlines(keepends=True), "p.jsonl")
    return caught.value.faults


@settings(deadline=None, max_examples=60)
@given(st.lists(PREDICTIONS, min_size=1, max_size=4, unique_by=lambda row: row.id))
def test_round_trip(table: list[Prediction]) -> None:
    text = dump(table)
    assert parse(text.split("\n"), "p.jsonl") == table
    assert parse(text.encode().decode().split("\n"), "p.jsonl") == table


def test_round_trip_through_a_file(tmp_path: Path, item) -> None:
    table = [item("1", "líneas\nand “quotes”\u2028", ["a", "b"], "g", kind="x"), item("2", "", ["c"])]
    path = tmp_path / "val.jsonl"
    path.write_text(dump(table), encoding="utf-8")
    assert read(path) == table
    first = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert first.pop("format") == 1
    assert list(first) == ["id", "origin", "prompt", "prediction", "references", "tags", "group"]
    assert "líneas" in path.read_text(encoding="utf-8")


def test_text_that_no_encoding_holds_is_kept() -> None:
    table = [Prediction("1", "f", "", "half \ud83d a pair", ("x",))]
    assert parse([dump(table).encode().decode()], "p.jsonl") == table


def test_rows_from_elsewhere() -> None:
    rows = [
        '{"prediction": "cat", "references": "a cat", "model": "ours"}',
        "",
        '{"id": 12, "prediction": "", "references": [], "tags": {"n": 2, "yes": true, "no": null}}',
    ]
    first, second = parse(rows, "p.jsonl")
    assert first == Prediction("1", "p.jsonl, row 1", "", "cat", ("a cat",))
    assert (second.id, second.origin, second.references) == ("12", "p.jsonl, row 3", ())
    assert second.tags == {"n": "2", "yes": "true"}


def test_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prediction": "x", "references": ["x"]}\r\n')
    assert read(path)[0].prediction == "x"


GOOD = '{"prediction": "x", "references": ["x"]}\n'


@pytest.mark.parametrize(
    ("row", "what", "where"),
    [
        ('{"prediction": "x",', "not valid JSON", "p.jsonl, line 7"),
        ('["x"]', "a list in place of an object", "p.jsonl, line 7"),
        ('{"references": ["x"]}', "'prediction' is missing", "p.jsonl, line 7, key 'prediction'"),
        ('{"prediction": null, "references": ["x"]}', "'prediction' is null", "line 7, key 'prediction'"),
        ('{"prediction": 5, "references": ["x"]}', "a number in place of a text", "line 7, key 'prediction'"),
        ('{"prediction": "x"}', "'references' is missing", "p.jsonl, line 7, key 'references'"),
        ('{"prediction": "x", "references": {"a": 1}}', "an object in place of", "line 7, key 'references'"),
        ('{"prediction": "x", "references": ["x", 1]}', "not all texts", "line 7, key 'references'"),
        ('{"prediction": "x", "references": "x", "id": 1.5}', "a number in place of", "line 7, key 'id'"),
        ('{"prediction": "x", "references": "x", "id": true}', "true or false", "line 7, key 'id'"),
        ('{"prediction": "x", "references": "x", "tags": ["a"]}', "a list in place of", "line 7, key 'tags'"),
        ('{"prediction": "x", "references": "x", "tags": {"a": []}}', "in place of", "line 7, key 'tags'"),
        ('{"prediction": "x", "references": "x", "group": 4}', "a number in place", "line 7, key 'group'"),
        ('{"prediction": "x", "references": "x", "prompt": []}', "a list in place", "line 7, key 'prompt'"),
        (
            '{"prediction": "x", "references": "x", "origin": {}}',
            "an object in place",
            "line 7, key 'origin'",
        ),
        ('{"prediction": "x", "references": "x", "id": "3"}', "stands already at line 3", "line 7, key 'id'"),
    ],
)
def test_faults_name_file_line_and_key(row: str, what: str, where: str) -> None:
    (fault,) = faults(GOOD * 6 + row)
    assert what in fault.what and where in fault.where and fault.mend


def test_all_faults_at_once_up_to_a_limit() -> None:
    assert len(faults(GOOD + '{"prediction": 1}\n' + GOOD + "nonsense")) == 3
    assert len(faults("nonsense\n" * 1000)) == FAULTS_AT_ONCE


def test_a_misspelt_key_is_pointed_at() -> None:
    (fault,) = faults('{"prediction": "x", "reference": ["x"]}')
    assert "'reference'" in fault.mend


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="holds no predictions") as caught:
        read(path)
    assert caught.value.faults[0].where == str(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "none.jsonl")
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"prediction": "é", "references": "x"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read(path)


def test_results_document() -> None:
    scores = [Score("val", "all", "cider", 1.0, 0.9, 1.1, 9)]
    comparisons = [Comparison("val", "all", "cider", "majority", 0.4, 0.6, 0.5, 0.7, 9, 8)]
    document = results_document(scores, comparisons)
    assert document == json.loads(json.dumps(document))
    assert document == {
        "format": 1,
        "scores": [
            {"split": "val", "slice": "all", "name": "cider", "value": 1.0, "low": 0.9, "high": 1.1, "count": 9}
        ],
        "baselines": [
            {
                "split": "val", "slice": "all", "name": "cider", "baseline": "majority", "value": 0.4,
                "difference": 0.6, "low": 0.5, "high": 0.7, "count": 9, "groups": 8,
            }
        ],
    }  # fmt: skip
    assert results_document(scores)["baselines"] == []
