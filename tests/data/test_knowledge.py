"""Facts from a second table, as AQUA's questions need them from SemArt."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from row_lists import CAT, DOG, ListReader, counted, opened, sample_of

from finesight.config.sources import Knowledge
from finesight.core.errors import DataError
from finesight.data.shapes import knowledge as module
from finesight.data.shapes.knowledge import facts_of

PAINTINGS = [
    {
        "IMAGE_FILE": "cat.png",
        "AUTHOR": "MANET, Édouard",
        "DESCRIPTION": "A cat\tat noon. ",
        "SCHOOL": "French",
    },
    {"IMAGE_FILE": "dog.png ", "AUTHOR": "HALS, Frans", "DESCRIPTION": "A dog.", "SCHOOL": "Dutch"},
]
ROW = {
    "image": CAT,
    "name": "cat.png",
    "question": "Who painted it?",
    "answer": "Manet",
    "need_external_knowledge": True,
}


def semart(folder: Path, encoding: str = "utf-8", rows: Sequence[Mapping[str, str]] = PAINTINGS) -> Path:
    """Separated by tabs under the name of a CSV, as SemArt comes."""
    lines = ["\t".join(rows[0]), *("\t".join(f'"{cell}"' for cell in row.values()) for row in rows)]
    file = folder / "semart_train.csv"
    file.write_bytes("\n".join(lines).encode(encoding))
    return file


def recipe(file: Path, **more: Any) -> dict[str, Any]:
    table = {"path": str(file), "key": "IMAGE_FILE", "row_key": "name", "delimiter": "\t", **more}
    return {"knowledge": table, "prompt": "{DESCRIPTION}\n{question}"}


def test_facts_in_the_question(tmp_path: Path) -> None:
    asked = recipe(semart(tmp_path))
    assert sample_of("vqa", ROW, **asked).prompt == "A cat\tat noon.\nWho painted it?"
    assert sample_of("vqa", {**ROW, "name": " dog.png"}, **asked).prompt == "A dog.\nWho painted it?"
    plain = {**asked, "text": {"strip": False}}
    assert sample_of("vqa", ROW, **plain).prompt == "A cat\tat noon. \nWho painted it?"
    source = opened("vqa", ROW, tags=("SCHOOL",), group="AUTHOR", **asked)
    sample = pickle.loads(pickle.dumps(source)).sample(0)
    assert sample is not None
    assert (sample.tags, sample.group) == ({"SCHOOL": "French"}, "MANET, Édouard")
    assert source.facts is not None and set(source.facts.columns) == {"DESCRIPTION", "SCHOOL", "AUTHOR"}


@pytest.mark.parametrize("needed", [True, "true", "True"])
def test_only_rows_that_need_them(tmp_path: Path, needed: Any) -> None:
    asked = recipe(semart(tmp_path), when={"need_external_knowledge": "true"})
    without = {
        **ROW,
        "name": "unknown.png",
        "need_external_knowledge": "False" if needed == "True" else False,
    }
    rows = ({**ROW, "need_external_knowledge": needed}, without)
    source = opened("vqa", *rows, **asked)
    prompts = [sample.prompt for sample in (source.sample(0), source.sample(1)) if sample]
    assert prompts == ["A cat\tat noon.\nWho painted it?", "\nWho painted it?"]
    file = tmp_path / "semart_train.csv"
    assert counted("vqa", *rows, **asked) == {("knowledge", f"{file}: facts put into questions"): 1}


@pytest.mark.parametrize(
    ("name", "what"), [("gone.png", "`gone.png` is not in"), (" ", "the key to the knowledge table")]
)
def test_a_row_that_needs_facts_and_has_none(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        sample_of("vqa", {**ROW, "name": name}, **recipe(semart(tmp_path)))
    assert caught.value.faults[0].where == "rows.json, row 1, column `name`"
    assert "`knowledge.when`" in caught.value.faults[0].mend
    assert caught.value.column == "name"


def refused(rows: Sequence[Mapping[str, Any]], **knowledge: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        facts_of(
            ListReader(rows, "facts.csv"),
            Knowledge(path="facts.csv", **knowledge),
            ["image", "question", "name"],
            ["f", "ff"],
        )
    return caught.value


def test_tables_that_cannot_be_joined(tmp_path: Path) -> None:
    twice = refused([{"k": "a", "f": "1"}, {"k": "b", "f": "2"}, {"k": "a ", "f": "3"}], key="k")
    assert twice.faults[0].what == "the key `a` is that of row 1 and of row 3"
    clash = refused([{"k": "a", "question": "1", "name": "2"}], key="k")
    assert clash.faults[0].what == "`question`, `name` of the knowledge table are columns of the rows, too"
    both = refused([{"k": "a", "f": "1"}], key="kk", columns=("ff",))
    assert [fault.what for fault in both.faults] == ["there is no column `kk`", "there is no column `ff`"]
    with pytest.raises(
        DataError, match=r"no column of the knowledge table is used[\s\S]*`AUTHOR`, `DESCRIPTION`"
    ):
        sample_of("vqa", ROW, **{**recipe(semart(tmp_path)), "prompt": "{question}"})
    with pytest.raises(DataError, match=r"there is no column `nme`[\s\S]*`knowledge.row_key`"):
        sample_of("vqa", ROW, **recipe(semart(tmp_path), row_key="nme"))
    with pytest.raises(DataError, match=r"there is no column `need`[\s\S]*`knowledge.when`"):
        sample_of("vqa", ROW, **recipe(semart(tmp_path), when={"need": "true"}))


@pytest.mark.parametrize(("mark", "written"), [("\t", r"\t"), (";", ";")])
def test_a_table_in_one_column_says_how_to_part_it(mark: str, written: str) -> None:
    (fault,) = refused([{f"k{mark}f": f"a{mark}1"}], key="k").faults
    assert fault.what == "there is no column `k`"
    assert f'set `delimiter: "{written}"`' in fault.mend


def test_a_column_of_the_same_name_that_is_not_chosen_is_no_clash(tmp_path: Path) -> None:
    rows = [{"name": "cat.png", "question": "other", "FACT": "A cat."}]
    facts = facts_of(
        ListReader(rows),
        Knowledge(path="x", key="name", columns=("FACT",)),
        ["name", "question"],
        ["FACT", "question"],
    )
    assert facts.columns == ("FACT",)


def test_a_table_that_is_not_utf8_says_how_to_mend_it(tmp_path: Path) -> None:
    """SemArt's own files are written in Windows' letters."""
    file = semart(tmp_path, "cp1252")
    with pytest.raises(DataError, match=r"not UTF-8[\s\S]*row 1[\s\S]*`knowledge.encoding: cp1252`"):
        sample_of("vqa", ROW, **{**recipe(file), "prompt": "{AUTHOR}?"})
    told = sample_of("vqa", ROW, **{**recipe(file, encoding="cp1252"), "prompt": "{AUTHOR}?"})
    assert told == sample_of("vqa", ROW, **{**recipe(semart(tmp_path, "utf-8")), "prompt": "{AUTHOR}?"})


def test_rows_without_a_key_are_said(tmp_path: Path) -> None:
    rows = [{"k": "a", "f": "1"}, {"k": "", "f": "2"}, {"k": " ", "f": "3"}]
    facts = facts_of(ListReader(rows, "facts.csv"), Knowledge(path="facts.csv", key="k"), ["name"], ["f"])
    assert facts.said == (("knowledge", "facts.csv: 2 rows have no `k`"),)


def test_keys_of_equal_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_hash", lambda key: np.uint64(len(key)))
    rows = [{"k": key, "f": key.upper()} for key in ("ab", "c", "de", "fgh", "ij")]
    facts = facts_of(ListReader(rows), Knowledge(path="x", key="k"), ["name"], ["f"])
    assert [facts._row(key) for key in ("ab", "c", "de", "fgh", "ij", "zz", "z")] == [
        0,
        1,
        2,
        3,
        4,
        None,
        None,
    ]
    with pytest.raises(DataError, match="row 3 and of row 6"):
        facts_of(ListReader([*rows, {"k": "de", "f": "x"}]), Knowledge(path="x", key="k"), ["name"], ["f"])


def test_only_keys_and_numbers_are_held() -> None:
    rows = [{"k": f"{number}", "f": "x" * 1000} for number in range(500)]
    facts = facts_of(ListReader(rows), Knowledge(path="x", key="k"), ["name"], ["f"])
    assert facts._hashes.nbytes + facts._rows.nbytes == 16 * 500
    assert all(facts._row(str(number)) == number for number in range(0, 500, 7))


def test_the_second_table_is_part_of_what_the_source_is(tmp_path: Path) -> None:
    before = opened("vqa", ROW, **recipe(semart(tmp_path))).identity()
    semart(tmp_path, rows=[*PAINTINGS, {**PAINTINGS[0], "IMAGE_FILE": "new"}])
    assert opened("vqa", ROW, **recipe(tmp_path / "semart_train.csv")).identity() != before


def test_facts_never_become_control_words(tmp_path: Path) -> None:
    """A fact is a person's text, as the question is; braces in it name no column."""
    rows = [{**PAINTINGS[0], "DESCRIPTION": "{answer} <image> {{"}]
    assert sample_of("vqa", {**ROW, "image": DOG}, **recipe(semart(tmp_path, rows=rows))).prompt == (
        "{answer} <image> {{\nWho painted it?"
    )
