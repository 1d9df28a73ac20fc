import pytest

from finesight.evaluation.normalise import squad_normalise


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  Flag of\tAn island. ", "flag of island"),
        ("U.S.", "us"),
        ("next-to", "nextto"),
        ("theatre another anthem", "theatre another anthem"),
        ("the-cat", "thecat"),  # punctuation goes first, so no article is left to find
        ("It's A “cat”", "its “cat”"),  # only ASCII punctuation goes
        ("a. An, THE!", ""),
        ("Çé", "çé"),
        ("", ""),
    ],
)
def test_squad_normalisation(text: str, normalised: str) -> None:
    assert squad_normalise(text) == normalised


def test_normalising_twice_changes_nothing_more() -> None:
    once = squad_normalise("A man, a plan: the canal!")
    assert squad_normalise(once) == once == "man plan canal"
