"""Scheduled sampling: a model learns from what it would have said itself (Bengio et al. 2015, arXiv:1506.03099).

Two passes, as for transformers (Mihaylova and Martins 2019, arXiv:1906.07651; Duckworth et al. 2019,
arXiv:1906.04331): the first one predicts every token of the answers from the true ones before it, without gradients;
some of these predictions then stand in the inputs of the second one in place of the true tokens. Targets stay.

B rows of a batch, T tokens, N supervised positions, V tokens in the vocabulary.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from finesight.config.sampling import ScheduledSampling
from finesight.core.batch import IGNORE, Batch
from finesight.training.precision import Precision
from finesight.training.step import evaluating

Best = Callable[[Batch, Callable[[Tensor], Tensor]], Tensor]
"""Gives the likeliest token (N,) of each supervised position, of logits that a function has changed."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def ratio_of(settings: ScheduledSampling, steps: int) -> Callable[[int], float]:
    """The teacher-forcing ratio of each step (from 1) of so many; a function of its number alone.

    With r = `ratio`, e = `to`: constant r; linear r + (e − r)·min(1, (n − 1) / (S − 1)) over S steps; cyclic
    e + (r − e)·(1 + cos 2π(n − 1)/P) / 2 with the period P.
    """
    start, end = settings.ratio, settings.ratio if settings.to is None else settings.to
    over = steps if settings.over is None else settings.over
    line = round(over * steps) if isinstance(over, float) else over
    period = settings.period or 1

    def ratio(number: int) -> float:
        if settings.shape == "cyclic":
            return end + (start - end) * (1 + math.cos(2 * math.pi * ((number - 1) % period) / period)) / 2
        return start + (end - start) * min(1.0, (number - 1) / max(1, line - 1))

    return ratio


def drawn(seed: int, number: int, ids: Sequence[str], begins: Sequence[int], length: int) -> np.ndarray:
    """A number below 1 for each place (B, T) of a batch, of which row b begins at `begins[b]`.

    It depends on the seed, the step, the sample's id and the position in the sample alone: neither on what else is in
    the batch nor on where padding is.
    """
    places = np.arange(length, dtype=np.int64)[None] - np.array(begins, dtype=np.int64)[:, None]
    keys = [hashlib.blake2b(f"{seed} {number} {name}".encode(), digest_size=8).digest() for name in ids]
    mixed = np.frombuffer(b"".join(keys), dtype="<u8")[:, None] + places.astype(np.uint64) * _GOLDEN
    # splitmix64's mixing, as in `step.hash_seed`
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    shares: np.ndarray = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    return shares


class Sampling:
    """Gives the batch that a step learns from: inputs of answers replaced by what the model predicts.

    An input is replaced with probability 1 − ratio where it is the supervised target of the position before, and no
    `fixed` token (an end, a picture's place). No `fixed` token is put in either: after an end nothing follows, and a
    picture's place would call for a picture. The first pass is in evaluation mode: it says what the model would answer,
    leaves averages of batch norms and the draws of dropout alone, and so changes nothing where nothing is replaced.
    """

    def __init__(
        self,
        module: nn.Module,
        best: Best,
        precision: Precision,
        ratio: Callable[[int], float],
        seed: int,
        fixed: Iterable[int],
    ) -> None:
        self._module, self._best, self._precision = module, best, precision
        self._ratio, self._seed, self._fixed = ratio, seed, sorted(set(fixed))

    def due(self, number: int) -> bool:
        """Whether any input is replaced in this step, and a first pass is made."""
        return self._ratio(number) < 1

    def __call__(self, batch: Batch, number: int) -> Batch:
        """The batch of step `number`; the same one where the step's ratio is 1."""
        ratio = self._ratio(number)
        if ratio >= 1:
            return batch
        with evaluating(self._module), self._precision.autocast():
            predicted = self._best(batch, self._allowed)
        name = "decoder_input_ids" if "decoder_input_ids" in batch.inputs else "input_ids"
        tokens, targets = batch.inputs[name], batch.targets
        guesses = torch.full_like(tokens, IGNORE)
        guesses[targets != IGNORE] = predicted.to(tokens.device, tokens.dtype)
        numbers = drawn(self._seed, number, batch.ids, _begins(batch, name), tokens.shape[1])
        chosen = torch.from_numpy(numbers >= ratio).to(tokens.device)[:, 1:]
        fixed = torch.tensor(self._fixed, dtype=tokens.dtype, device=tokens.device)
        chosen &= (tokens[:, 1:] == targets[:, :-1]) & ~torch.isin(tokens[:, 1:], fixed)
        fed = tokens.clone()
        fed[:, 1:] = torch.where(chosen, guesses[:, :-1], tokens[:, 1:])
        return replace(batch, inputs={**batch.inputs, name: fed})

    def _allowed(self, logits: Tensor) -> Tensor:
        """Logits (n, V) without the fixed tokens."""
        known = [token for token in self._fixed if token < logits.shape[-1]]
        return (
            logits.index_fill(-1, torch.tensor(known, device=logits.device), -math.inf) if known else logits
        )


def _begins(batch: Batch, name: str) -> list[int]:
    """Where each row's sample begins: behind the padding, if that is on the left."""
    mask = batch.inputs.get("attention_mask")
    if name != "input_ids" or mask is None or mask.shape != batch.targets.shape:
        return [0] * len(batch.ids)
    begins: list[int] = mask.to(torch.int8).argmax(dim=1).tolist()
    return begins
