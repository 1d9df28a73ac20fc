from finesight.evaluation.debug import DebugRow, debug_rows


def test_texts_before_and_after_normalisation(item) -> None:
    table = [item("1", "The Cat.", ["cat", "A kitten!"]), item("2", "dog", ["dog"]), item("3", "x", ["y"])]
    first, second = debug_rows(table, 2)
    assert first == DebugRow(
        "1", "rows.csv, row 1", "The Cat.", "cat", ("cat", "A kitten!"), ("cat", "kitten"), True, False
    )
    assert (second.id, second.match, second.match_strict) == ("2", True, True)
    assert [row.match for row in debug_rows(table, 10)] == [True, True, False]


def test_without_references_nothing_matches(item) -> None:
    (row,) = debug_rows([item("1", "x", [])], 5)
    assert (row.references, row.match, row.match_strict) == ((), False, False)
