from finesight.evaluation.slices import slices


def test_all_then_tag_values_in_stable_order(item) -> None:
    table = [
        item("1", "x", ["x"], kind="b", place="in"),
        item("2", "x", ["x"], kind="a"),
        item("3", "x", ["x"]),
        item("4", "x", ["x"], place="in", kind="b"),
    ]
    found = [(part.name, list(part.rows)) for part in slices(table)]
    assert found == [("all", [0, 1, 2, 3]), ("kind=a", [1]), ("kind=b", [0, 3]), ("place=in", [0, 3])]
    assert [part.name for part in slices(table[::-1])] == [name for name, _ in found]


def test_no_tags(item) -> None:
    assert [part.name for part in slices([item("1", "x", ["x"])])] == ["all"]
