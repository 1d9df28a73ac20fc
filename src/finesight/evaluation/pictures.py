"""Does the picture matter? Losses of the same samples with their pictures, with blank ones and with other samples'.

A model that is shown pictures may learn what words alone tell: its loss is then the same whatever it is shown.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from finesight.core.prediction import Score
from finesight.evaluation.intervals import Interval, interval, paired_interval
from finesight.evaluation.metrics.contract import Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_LEAST = 0.01
"""Share of the loss below which a difference is as good as none."""


@dataclass(frozen=True)
class SampleLosses:
    """Summed losses (nats) of one sample's supervised `tokens`: with its pictures, with blank ones, and with another
    sample's (None where there is no other that fits). Samples of one `group` are resampled together."""

    group: str
    tokens: int
    true: float
    blank: float
    shuffled: float | None


@dataclass(frozen=True)
class Gain:
    """What the true pictures are better by, in nats a token, with its 95 % interval over samples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PictureEffect:
    """Mean losses in nats per supervised token over the same samples, and what the pictures are worth.

    `blank` is with the mean picture of the model's processor, `shuffled` with pictures of other samples, None with
    `why` where that could not be done.
    """

    split: str
    samples: int
    tokens: int
    true: float
    blank: float
    shuffled: float | None
    over_blank: Gain
    over_shuffled: Gain | None
    intervals: tuple[tuple[str, float, float, float], ...]
    why: str = ""

    @property
    def matters(self) -> bool:
        """Whether one of the gains is above zero beyond doubt (95 %), and at least a hundredth of the loss."""
        gains = [gain for gain in (self.over_blank, self.over_shuffled) if gain is not None]
        return any(gain.low > 0 and gain.value >= _LEAST * self.true for gain in gains)

    def values(self) -> dict[str, float]:
        """The losses by the names of `metrics.jsonl`."""
        return {name: value for name, value, _, _ in self.intervals}

    def scores(self) -> list[Score]:
        """The losses as scores, with their intervals."""
        return [
            Score(self.split, "all", name, value, low, high, self.samples)
            for name, value, low, high in self.intervals
        ]

    def document(self) -> dict[str, Any]:
        """As `results.json` holds it."""
        known = asdict(self)
        del known["intervals"]
        return {**known, "matters": self.matters}

    def sentence(self) -> str:
        """The numbers in words."""
        others = [f"{self.blank:.4g} with blank ones"]
        if self.shuffled is not None:
            others.append(f"{self.shuffled:.4g} with those of other samples")
        return (
            f"the loss of {self.samples} {self.split} samples is {self.true:.4g} a token with their pictures, "
            f"{' and '.join(others)}"
        )


def _per_token(sums: "Floats", counts: "Floats") -> "Floats":
    return sums[..., :1] / sums[..., 1:]


def _statistics(_: Sequence[Any]) -> "Floats":
    raise NotImplementedError("losses are measured, not read from predictions")


_LOSS = Metric(("loss",), 2, _statistics, _per_token)


def picture_effect(
    rows: Sequence[SampleLosses], split: str, seed: int, resamples: int, why: str = ""
) -> PictureEffect:
    """What the pictures of some samples (at least one) are worth, with paired bootstrap intervals over their groups.

    The same seed gives the same intervals, whatever the order of the rows.
    """
    import numpy as np

    rows = sorted(rows, key=lambda row: (row.group, row.tokens, row.true, row.blank))
    names = {name: number for number, name in enumerate(sorted({row.group for row in rows}))}
    groups = np.array([names[row.group] for row in rows], dtype=np.int64)
    tokens = [row.tokens for row in rows]

    def table(losses: Sequence[float]) -> "Floats":
        return np.array(list(zip(losses, tokens, strict=True)), dtype=np.float64)

    tables = {
        "picture_true": table([row.true for row in rows]),
        "picture_blank": table([row.blank for row in rows]),
    }
    shuffled = [row.shuffled for row in rows if row.shuffled is not None]
    if len(shuffled) == len(rows):
        tables["picture_shuffled"] = table(shuffled)
    ends = {name: interval(_LOSS, own, groups, seed, resamples) for name, own in tables.items()}

    def gain(name: str) -> Gain | None:
        if name not in tables:
            return None
        found = paired_interval(_LOSS, tables[name], tables["picture_true"], groups, seed, resamples)
        return Gain(*_plain(found))

    over_blank = gain("picture_blank")
    assert over_blank is not None
    values = {name: _plain(found)[0] for name, found in ends.items()}
    return PictureEffect(
        split,
        len(rows),
        sum(tokens),
        values["picture_true"],
        values["picture_blank"],
        values.get("picture_shuffled"),
        over_blank,
        gain("picture_shuffled"),
        tuple((name, *_plain(found)) for name, found in ends.items()),
        why,
    )


def _plain(found: Interval) -> tuple[float, float, float]:
    return float(found.value[0]), float(found.low[0]), float(found.high[0])
