"""What the tests of evaluation share."""

from collections.abc import Callable, Sequence

import pytest

from finesight.core.prediction import Prediction

Item = Callable[..., Prediction]


@pytest.fixture(scope="session")
def item() -> Item:
    """Makes a prediction out of what a test cares about."""

    def make(id: str, prediction: str, references: Sequence[str], group: str = "", **tags: str) -> Prediction:
        return Prediction(
            id, f"rows.csv, row {id}", "What is this?", prediction, tuple(references), tags, group
        )

    return make
