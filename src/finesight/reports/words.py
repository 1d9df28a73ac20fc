"""Numbers and names as people read them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

SPACE = "\u202f"
"""Narrow space that does not break: between a number and its unit."""


@dataclass(frozen=True)
class Metric:
    """How a score is named and written: a `share` of 1 as percent, a plain `number`, or already `percent`."""

    label: str
    kind: Literal["share", "number", "percent"]
    meaning: str = ""
    lower_is_better: bool = False


METRICS = {
    "exact_match": Metric(
        "exact match", "share", "equal to a reference but for case, punctuation and articles"
    ),
    "exact_match_strict": Metric("strict match", "share", "equal to a reference, letter by letter"),
    "token_f1": Metric("token F1", "share", "overlap of words with the closest reference"),
    "vqa_accuracy": Metric("VQA accuracy", "share", "agreement with several people's answers"),
    "cider": Metric("CIDEr-D", "number", "agreement on the telling word sequences; 10 is the most"),
    "rouge_l": Metric("ROUGE-L", "share", "longest common word sequence"),
    "rouge_l_f1": Metric("ROUGE-L F1", "share", "longest common word sequence, as F1"),
    "meteor_nltk": Metric("METEOR (NLTK)", "share", "words matched, stems and synonyms too"),
    "sacrebleu": Metric("sacreBLEU", "percent", "word sequences shared with the references, 0–100"),
    "chrf": Metric("chrF", "percent", "letter sequences shared with the references, 0–100"),
    "wer": Metric("word error rate", "share", "words to change for the reference; lower is better", True),
    "perplexity": Metric("perplexity", "number", "how surprised it is by the truth; lower is better", True),
    "val_loss": Metric("validation loss", "number", "mean per learned token; lower is better", True),
    "picture_true": Metric("loss with its pictures", "number", "per learned token", True),
    "picture_blank": Metric("loss with blank pictures", "number", "per learned token"),
    "picture_shuffled": Metric("loss with others’ pictures", "number", "per learned token"),
    **{
        f"bleu_{n}": Metric(f"BLEU-{n}", "share", f"sequences of up to {n} words shared") for n in range(1, 5)
    },
}
NAMES = {
    "all": "all answers",
    "fallback": "fell back",
    "majority": "most common answer",
    "flops": "floating-point operations",
    "joules": "energy",
    "mfu": "of the peak arithmetic (MFU)",
    "nearest picture": "nearest training picture’s answer",
    "peak_bytes": "peak memory",
    "seconds": "time",
    "seconds_per_step": "time of a step",
    "supervised_tokens": "learned from",
    "val": "validation",
}
"""What files call it, and what the page does."""


def metric(name: str) -> Metric:
    """The known metric, else a plain number under its own name."""
    return METRICS.get(name) or Metric(name.replace("_", " "), "number")


def named(name: str) -> str:
    """A key as words; `tag=value` as `tag: value`."""
    return NAMES.get(name) or name.replace("=", ": ").replace("_", " ")


def sentence(text: str) -> str:
    """With a capital first letter; the others stay as they are."""
    return text[:1].upper() + text[1:]


def score(value: float, how: Metric) -> str:
    """A metric's value."""
    if how.kind == "share":
        return percent(value)
    return (
        decimal(value) if abs(value) >= 100 or not math.isfinite(value) else f"{value:#.3g}".replace("-", "−")
    )


def interval(low: float, high: float, how: Metric) -> str:
    """Two ends with one unit."""
    unit = SPACE + "%" if how.kind == "share" else ""
    return f"{score(low, how).removesuffix(unit)}–{score(high, how)}"


def percent(share: float) -> str:
    """0.456 as 46 %; one digit more near 0 and 1, where it matters."""
    if not math.isfinite(share):
        return "not a number"
    value = 100 * share
    digits = 1 if 0 < abs(value) < 0.95 or 99.05 <= abs(value) < 99.95 else 0
    return f"{value:.{digits}f}{SPACE}%".replace("-", "−")


def decimal(value: float) -> str:
    """Three meaningful digits, thousands apart."""
    if not math.isfinite(value):
        return "not a number"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    digits = max(0, min(6, 2 - math.floor(math.log10(abs(value)))))
    return f"{value:.{digits}f}".replace("-", "−")


def count(number: float, one: str = "", many: str = "") -> str:
    """1,044 samples."""
    if not one:
        return decimal(number)
    return f"{decimal(number)} {one if number == 1 else many or one + 's'}"


def large(number: float) -> str:
    """1,723,000 as 1.7 million."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.{0 if number >= 100 * size else 1}f} {word}"
    return count(number)


def size(number: float) -> str:
    """Bytes."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if abs(number) >= 1000**power:
            return f"{decimal(float(f'{number / 1000**power:.3g}'))}{SPACE}{unit}"
    return f"{number:.0f}{SPACE}B"


def energy(joules: float) -> str:
    """Joules as J, Wh or kWh."""
    for unit, name in ((3.6e6, "kWh"), (3600, "Wh"), (1, "J")):
        if joules >= unit:
            return f"{decimal(float(f'{joules / unit:.3g}'))}{SPACE}{name}"
    return f"{decimal(joules)}{SPACE}J"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if not math.isfinite(seconds):
        return "not a number"
    if seconds < 1:
        return f"{decimal(float(f'{1000 * seconds:.2g}'))}{SPACE}ms"
    if seconds < 10:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{SPACE}s"
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    at = next(index for index, (length, _) in enumerate(units) if whole >= length)
    (length, unit), (part, below) = units[at], units[at + 1]
    rest = whole % length // part
    return f"{whole // length}{SPACE}{unit}" + (f" {rest}{SPACE}{below}" if rest else "")


def quantity(key: str, value: object) -> str:
    """A value of a JSON file, by what its key says of its unit."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if key.endswith("bytes"):
        return size(value)
    if key == "joules":
        return energy(value)
    if key == "mfu":
        return percent(value)
    if key.startswith("seconds") or key.endswith("seconds"):
        return duration(value)
    return large(value) if key in ("parameters", "flops") else decimal(value)


def listed(items: Iterable[str]) -> str:
    """a, b and c."""
    *head, last = items
    return f"{', '.join(head)} and {last}" if head else last
