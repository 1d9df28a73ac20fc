"""The arithmetic of the benchmarks; no time is asserted."""

import io
import json
import math

import pytest

from benchmarks.harness import Requests, Result, interleave, largest_difference, paired_ratios, spread


def result() -> Result:
    costs = {"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 6.0, 6.0]}
    return Result("step", "s", costs, {"faster": ("theirs", "ours")}, {"largest loss difference": 0.0})


def test_spread_is_median_and_bounds() -> None:
    assert (spread([3.0, 1.0, 2.0]).median, spread([4.0, 1.0]).median) == (2.0, 2.5)
    assert (spread([3.0, 1.0, 2.0]).low, spread([3.0, 1.0, 2.0]).high) == (1.0, 3.0)
    with pytest.raises(ValueError, match="nothing"):
        spread([])


def test_ratios_are_taken_round_by_round() -> None:
    assert paired_ratios([2.0, 6.0, 6.0], [1.0, 2.0, 4.0]) == [2.0, 3.0, 1.5]
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_ratios([1.0], [1.0, 2.0])


def test_the_median_ratio_is_not_the_ratio_of_medians() -> None:
    slow_round = Result("x", "s", {"a": [1.0, 10.0, 30.0], "b": [1.0, 20.0, 5.0]}, {"r": ("a", "b")}, {})
    document = slow_round.document(["python"])
    assert document["ratios"]["r"]["median"] == 1.0  # of 1, 0.5 and 6
    assert document["summary"]["a"]["median"] / document["summary"]["b"]["median"] == 2.0
    assert document["ratio_rounds"]["r"] == [1.0, 0.5, 6.0]


def test_largest_difference_sees_no_number() -> None:
    assert largest_difference([1.0, 2.0], [1.5, 2.0]) == 0.5
    assert largest_difference([], []) == 0.0
    assert math.isinf(largest_difference([1.0, math.nan, 1.0], [1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"shorter|longer"):
        largest_difference([1.0], [])


def test_variants_take_turns_and_warm_up_does_not_count() -> None:
    calls: list[str] = []

    def variant(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    costs = interleave({name: lambda name=name: variant(name) for name in "abc"}, rounds=3, warm_up=1)  # type: ignore[misc]
    assert "".join(calls) == "abc" + "bca" + "cab" + "abc"
    assert costs == {"a": [6.0, 8.0, 10.0], "b": [4.0, 9.0, 11.0], "c": [5.0, 7.0, 12.0]}


def test_a_result_is_kept_whole(tmp_path, capsys) -> None:
    path = result().keep(["python", "-m", "benchmarks.step"], tmp_path)
    kept = json.loads(path.read_text())
    assert path.name == f"step-{kept['date'][:10]}.json"
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert kept["rounds"] == {"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 6.0, 6.0]}
    assert kept["ratios"]["faster"] == {"median": 2.0, "low": 1.5, "high": 3.0}
    assert kept["command"] == "python -m benchmarks.step"
    assert {"date", "git", "machine", "versions", "unit", "summary", "facts"} <= kept.keys()
    assert "× 2 [1.5–3]" in capsys.readouterr().out


def test_a_worker_reads_amounts_and_answers_in_json() -> None:
    written = io.StringIO()
    requests = Requests(io.StringIO("5\n2\n"), written)
    assert [requests.next(), requests.next(), requests.next()] == [5, 2, None]
    requests.answer(cpu=1.5, losses=[2.0])
    assert json.loads(written.getvalue()) == {"cpu": 1.5, "losses": [2.0]}
