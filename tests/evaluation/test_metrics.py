import subprocess
import sys

import pytest

from finesight.core.errors import RecipeError
from finesight.evaluation.metrics import METRICS, select


def test_select_keeps_order_and_drops_repetition(item) -> None:
    metric = select(["bleu", "exact_match", "bleu", "cider"])
    assert metric.names == ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "exact_match", "cider")
    predictions = [item("1", "a cat", ["a cat"]), item("2", "dog", ["a red dog"])]
    statistics = metric.statistics(predictions)
    assert statistics.shape == (2, metric.width)
    alone = [value for key in ("bleu", "exact_match", "cider") for value in METRICS[key].value(
        METRICS[key].statistics(predictions)
    )]  # fmt: skip
    assert metric.value(statistics) == pytest.approx(alone, abs=0)


@pytest.mark.parametrize("keys", [[], ["exact_match", "accuracy"]])
def test_unknown_metrics_are_named(keys: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        select(keys)
    fault = caught.value.faults[0]
    assert fault.where == "evaluation.metrics" and "cider" in fault.mend
    assert "'accuracy'" in fault.what or not keys


def test_importing_costs_neither_numpy_nor_torch() -> None:
    rooms = ("score", "compare", "baselines", "table", "debug", "metrics")
    code = f"import sys, {', '.join('finesight.evaluation.' + room for room in rooms)}"
    code += (
        "\nfrom finesight.evaluation.metrics.exact_match import matches\nassert matches('The cat', ['cat'])"
    )
    code += "\nassert not {'numpy', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
