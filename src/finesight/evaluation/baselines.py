"""Answers that need no model. A model that does not beat them has not learned what it was meant to learn."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from finesight.core.errors import DataError
from finesight.core.prediction import Prediction

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

_BLOCK_BYTES = 32 << 20


def majority(
    train_prompts: Sequence[str], train_answers: Sequence[str], predictions: Sequence[Prediction]
) -> list[Prediction]:
    """The predictions, each with the most common training answer to its prompt in place of the model's.

    Prompts are the same where their texts are; a prompt that training did not have gets the most common
    answer of all. Of equally common answers the first in alphabetical order is taken, so the order of the
    rows is of no matter. Raises DataError where there are no training answers, or not one for each prompt.
    """
    _check(len(train_prompts), len(train_answers), "training prompts")
    overall, by_prompt = Counter(train_answers), dict[str, Counter[str]]()
    for prompt, answer in zip(train_prompts, train_answers, strict=True):
        by_prompt.setdefault(prompt, Counter())[answer] += 1
    common = {prompt: _most_common(answers) for prompt, answers in by_prompt.items()}
    fallback = _most_common(overall)
    return [replace(item, prediction=common.get(item.prompt, fallback)) for item in predictions]


def nearest_picture(
    train_pixels: "Pixels", train_answers: Sequence[str], pixels: "Pixels", predictions: Sequence[Prediction]
) -> list[Prediction]:
    """The predictions, each with the answer of the nearest training picture in place of the model's.

    `train_pixels` (train items, …) and `pixels` (items, …) are uint8 and resized to one shape; the distance
    is L2 over all levels, computed without rounding; of equally near pictures the first is taken. Memory
    beyond the arguments stays near 100 MB. Raises DataError where the numbers of pictures, answers and
    predictions do not agree, where there are no training pictures, or where the shapes or types of the
    pictures differ.
    """
    import numpy as np

    _check(len(train_pixels), len(train_answers), "training pictures")
    if len(pixels) != len(predictions):
        raise DataError(
            f"There are {len(pixels)} pictures for {len(predictions)} predictions.",
            "baseline nearest_picture",
            "Give one picture for each prediction, in the same order.",
        )
    same_shape = train_pixels.shape[1:] == pixels.shape[1:]
    if not same_shape or train_pixels.dtype != np.uint8 or pixels.dtype != np.uint8:
        raise DataError(
            f"Training pictures are {train_pixels.shape[1:]} of {train_pixels.dtype}, "
            f"the others {pixels.shape[1:]} of {pixels.dtype}.",
            "baseline nearest_picture",
            "Resize both to one shape of uint8 levels.",
        )
    nearest = nearest_rows(train_pixels.reshape(len(train_pixels), -1), pixels.reshape(len(pixels), -1))
    return [
        replace(item, prediction=train_answers[row]) for item, row in zip(predictions, nearest, strict=True)
    ]


def nearest_rows(train: "Pixels", queries: "Pixels") -> list[int]:
    """For each row of `queries` (M, D) the first nearest row of `train` (N, D) by L2 distance; both uint8."""
    import numpy as np

    rows = max(1, min(4096, _BLOCK_BYTES // (8 * max(1, train.shape[1]))))
    nearest: list[int] = []
    for query_start in range(0, len(queries), rows):
        # Whole numbers below 2**53 are exact in float64, so equal distances are equal and ties are stable.
        query = queries[query_start : query_start + rows].astype(np.float64)
        best, found = np.full(len(query), np.inf), np.zeros(len(query), dtype=np.int64)
        for start in range(0, len(train), rows):
            block = train[start : start + rows].astype(np.float64)
            # |q - t|² = |q|² - 2 q·t + |t|²; |q|² is the same for every t.
            distance = np.einsum("td,td->t", block, block) - 2 * (query @ block.T)
            first = distance.argmin(axis=1)
            least = distance[np.arange(len(query)), first]
            nearer = least < best
            best[nearer], found[nearer] = least[nearer], first[nearer] + start
        nearest.extend(found.tolist())
    return nearest


def _check(items: int, answers: int, title: str) -> None:
    if items != answers or not answers:
        raise DataError(
            f"There are {items} {title} and {answers} training answers.",
            "baseline from the training data",
            f"Give at least one, and one answer for each of the {title}.",
        )


def _most_common(answers: Counter[str]) -> str:
    return min(answers.items(), key=lambda pair: (-pair[1], pair[0]))[0]
