"""What is changed in the words of rows: blanks, Unicode forms, British and American spelling."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_lists import CAT, counted, opened, sample_of, shown

from finesight.config.sources import TextRules
from finesight.core.sample import Image, Part, Text
from finesight.data.shapes.spelling import respell, table
from finesight.data.shapes.words import WordRules

UK, US = table("uk"), table("us")


@pytest.mark.parametrize(
    ("text", "side", "wanted"),
    [
        ("The color of the gray harbor", "uk", "The colour of the grey harbour"),
        ("Colors, COLORS and colors.", "uk", "Colours, COLOURS and colours."),
        ("Center: organized, analyzed!", "uk", "Centre: organised, analysed!"),
        ("the color's name, colored-in (gray/white)", "uk", "the colour's name, coloured-in (grey/white)"),
        ("“favorite”—honor", "uk", "“favourite”—honour"),
        ("The colour of the grey theatre", "us", "The color of the gray theater"),
        ("Jewellery travelled by aeroplane", "us", "Jewelry traveled by airplane"),
        ("colour", "uk", "colour"),
        ("color", "us", "color"),
    ],
)
def test_spelling(text: str, side: str, wanted: str) -> None:
    assert respell(text, side)[0] == wanted


@pytest.mark.parametrize(
    "text",
    [
        "ColorPicker cOLOR colorblindness color_map color2 2color",
        "https://color.org/center color.png images/color/a.png a@center.org center.txt /gray gray/ C:\\gray",
        "check the meter, practice a story, license a program, the tire of a curb, a draft of a disk",  # two meanings
        "Manila",
        "日本の旗 über colör",
        "",
    ],
)
def test_what_is_no_word_of_the_list_stays(text: str) -> None:
    assert respell(text, "uk") == (text, 0)


def test_the_list() -> None:
    """Exchangeable without knowing what is meant: one partner each, and none is a word of the other side."""
    assert len(UK) == len(US) > 3400
    assert {uk: us for us, uk in UK.items()} == US
    assert not UK.keys() & US.keys()
    assert all(re.fullmatch("[a-z]+", word) for pair in UK.items() for word in pair)
    known = "color:colour gray:grey center:centre organize:organise traveled:travelled defense:defence"
    assert all(UK[us] == uk for us, uk in (pair.split(":") for pair in known.split()))


CASES = (str.lower, str.capitalize, str.upper)


@pytest.mark.proof
@given(st.lists(st.tuples(st.sampled_from(sorted(UK)), st.sampled_from(CASES)), min_size=1, max_size=6))
def test_there_and_back(words: list[tuple[str, type[str.lower]]]) -> None:
    american = " ".join(case(word) for word, case in words)
    british = " ".join(case(UK[word]) for word, case in words)
    assert respell(american, "uk") == (british, len(words))
    assert respell(british, "us") == (american, len(words))
    assert respell(british, "uk") == (british, 0)


@pytest.mark.proof
@given(
    st.lists(
        st.one_of(st.sampled_from(sorted(UK)), st.sampled_from(sorted(US)), st.text(max_size=8)), max_size=8
    ).map(" ".join)
)
def test_once_is_enough_and_all_else_stays(text: str) -> None:
    for side, words in (("uk", UK), ("us", US)):
        changed, number = respell(text, side)
        assert respell(changed, side) == (changed, 0)
        before, after = text.split(), changed.split()
        assert len(before) == len(after)
        assert re.findall(r"\s+", text) == re.findall(r"\s+", changed)
        altered = [one for one, other in zip(before, after, strict=True) if one != other]
        assert len(altered) <= number
        assert all({part.lower() for part in re.findall("[A-Za-z]+", one)} & words.keys() for one in altered)
        if not number:
            assert changed == text


ROW = {
    "image": CAT,
    "question": " What color? ",
    "answer": "Gray.\n",
    "answers": ["Gray.", " ﬁne "],
    "name": "color",
}


def test_rules_reach_every_text_of_a_row_and_no_name() -> None:
    row = {**ROW, "system": " Mind the colors. "}
    rules = {"spelling": "uk", "unicode": "NFKC"}
    sample = sample_of(
        "json",
        row,
        text=rules,
        tags=("name",),
        columns={"id": "name", "system": "system"},
        where={"name": "color"},
    )
    assert shown(sample) == ["system: Mind the colours.", "user: [cat]What colour?", "assistant: Grey."]
    assert sample.references == ("Grey.", "fine")
    assert (sample.tags, sample.id) == ({"name": "color"}, "color")
    sample = sample_of("json", row, text=rules, prompt="The color of {name}? ")
    assert sample.prompt == "The color of colour? "
    turns = [{"role": "user", "content": " gray? "}, {"role": "assistant", "content": " Gray. "}]
    assert shown(sample_of("text", {"messages": turns}, text=rules)) == ["user: grey?", "assistant: Grey."]


def test_what_is_changed_is_counted() -> None:
    rules = {"spelling": "uk", "unicode": "NFKC"}
    assert counted("json", ROW, text=rules) == {
        ("words", "words written the British way"): 3,
        ("words", "texts brought to the Unicode form NFKC"): 1,
    }
    assert counted("json", ROW) == {}


def test_without_rules_words_are_as_they_were_written() -> None:
    sample = sample_of("json", ROW, text={"strip": False})
    assert shown(sample) == ["user: [cat] What color? ", "assistant: Gray.\n"]
    assert sample.references == ("Gray.", " ﬁne ")


@pytest.mark.parametrize(("form", "wanted"), [("none", "e\u0301ﬁ"), ("NFC", "éﬁ"), ("NFKC", "éfi")])
def test_unicode_forms(form: str, wanted: str) -> None:
    assert (
        sample_of("json", {**ROW, "answer": "e\u0301ﬁ"}, text={"unicode": form}).messages[-1].text == wanted
    )


PARTS = st.lists(st.one_of(st.just(Image(b"1")), st.text(" \nab", max_size=4).map(Text)), max_size=6)


@given(PARTS)
def test_only_the_outer_blanks_of_a_turn_are_taken_off(parts: list[Part]) -> None:
    cleaned = WordRules(TextRules()).clean_parts(parts, Counter())
    words = "".join(part.text for part in parts if isinstance(part, Text))
    assert "".join(part.text for part in cleaned if isinstance(part, Text)) == words.strip()
    assert [part for part in cleaned if isinstance(part, Image)] == [
        part for part in parts if isinstance(part, Image)
    ]
    assert all(part.text for part in cleaned if isinstance(part, Text))
    kept = WordRules(TextRules(strip=False)).clean_parts(parts, Counter())
    assert "".join(part.text for part in kept if isinstance(part, Text)) == words


def test_rules_are_part_of_what_a_source_is() -> None:
    identities = {opened("json", ROW, text={"spelling": side}).identity() for side in ("none", "uk", "us")}
    assert len(identities) == 3
