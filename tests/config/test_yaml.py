"""YAML is read as the person means it, or refused with a line."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finesight.config.yaml import read_document, read_value, write
from finesight.core.errors import RecipeError


def read(text: str) -> object:
    return read_document(text.encode(), "r.yaml").value["x"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("FALSE", False),
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-1.", -1.0),
        ("+3", 3),
        ("-0", 0),
        ("12:30:45", "12:30:45"),
        ("0123", "0123"),
        ("007.5", "007.5"),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("2026-11-22", "2026-11-22"),
        ("2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'12'", "12"),
        ('"true"', "true"),
        ("=", "="),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("nan", "nan"),
        ("!!str 12", "12"),
    ],
)
def test_scalars_are_what_was_meant(written: str, meant: object) -> None:
    got = read(f"x: {written}\n")
    assert got == meant
    assert type(got) is type(meant)


def test_keys_are_always_text() -> None:
    assert read("x: {no: 1, 2019: 2, true: 3, 1.0: 4, ~: 5}") == {
        "no": 1,
        "2019": 2,
        "true": 3,
        "1.0": 4,
        "~": 5,
    }


def test_aliases_and_merged_mappings_are_written_out() -> None:
    text = "base: &b {a: 1, c: 2}\nother: &o {a: 9, d: 4}\nx:\n  <<: [*b, *o]\n  c: 3\n  e: *b\n"
    assert read(text) == {"a": 1, "d": 4, "c": 3, "e": {"a": 1, "c": 2}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", ["`a` stands twice", "line 3", "keep one"]),
        ("x:\n  a: 1\n  a: 1\n", ["`a` stands twice", "line 3"]),
        ("a:\n\tb: 1\n", ["a tab", "line 2", "column 1", "spaces"]),
        ("a: b: c\n", ["mapping values", "line 1", "column 5"]),
        ("a: [1, 2\nb: 3\n", ["line 2"]),
        ("- a\n- b\n", ["not a mapping", "r.yaml"]),
        ("hello", ["not a mapping"]),
        ("", ["not a mapping"]),
        ("a: 1\n---\nb: 2\n", ["second document"]),
        ("a: *b\n", ["undefined alias", "line 1"]),
        ("a: !!python/object/apply:os.system [ls]\n", ["python/object", "line 1"]),
        ("a: !!timestamp 2020-01-01\n", ["!!timestamp"]),
        ("a: !!set {x}\n", ["!!set"]),
        ("a: !!int x\n", ["!!int"]),
        ("a: &a [*a]\n", ["levels deep"]),
        ("? [a, b]\n: 1\n", ["a key must be text"]),
        ('a: "\\ud800"\n', ["surrogate"]),
        ("x: 1\ny: \x00\n", ["U+0000", "line 2"]),
        ("<<: 3\n", ["`<<` must name a mapping"]),
        ("a: " + "9" * 5000, ["too many digits"]),
        ("a: " + "[" * 2000, ["levels deep"]),
        ("a: " + "{b: " * 100_000, ["levels deep"]),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(text: str, told: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        read_document(text.encode(), "r.yaml")
    for words in told:
        assert words in str(error.value)


def test_bombs_are_refused_at_once() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    merges = ["m0: &m0 {a: 1}"] + [f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, 40)]
    start = time.process_time()
    for text in ("\n".join(levels), "\n".join(merges), "x: " + "y" * 2**20):
        with pytest.raises(RecipeError):
            read_document(text.encode(), "r.yaml")
    assert time.process_time() - start < 2


def test_text_that_is_not_utf8_names_its_line() -> None:
    with pytest.raises(RecipeError, match="line 2"):
        read_document(b"a: 1\nb: \xff\n", "r.yaml")
    assert read_document(b"\xef\xbb\xbfa: 1\n", "r.yaml").value == {"a": 1}


def test_every_key_and_item_has_its_place() -> None:
    places = read_document(b"a:\n  b: 1\n  c:\n    - x\n    - y\n", "r.yaml").places
    assert places[("a", "b")] == "r.yaml, line 2"
    assert places[("a", "c", 1)] == "r.yaml, line 5"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-4", 1e-4),
        ("no", "no"),
        ("null", None),
        ("", None),
        ("What is this: a flag? #1", "What is this: a flag? #1"),
        ("- a", "- a"),
        ("*x", "*x"),
        ("[1, {a: no}]", [1, {"a": "no"}]),
        ("{a: 1}", {"a": 1}),
        ("'12'", "12"),
        ("a=b", "a=b"),
    ],
)
def test_values_of_overrides(written: str, meant: object) -> None:
    assert read_value(written, "an override") == meant


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
tricky = st.sampled_from(
    ["1e-5", "no", "12:30:45", "0123", "null", "~", "", "a: b", "# c", "- d", "1_0", "\t", "<<", "="]
)
scalars = text | tricky | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | tricky, inner, max_size=4)
)


@given(st.dictionaries(text | tricky, values, max_size=4))
def test_what_is_written_reads_back_equal(value: dict[str, object]) -> None:
    assert read_document(write(value).encode(), "r.yaml").value == value
