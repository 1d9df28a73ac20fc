"""The metrics by their keys. The contract that they keep stands in `finesight.evaluation`."""

from collections.abc import Mapping, Sequence

from finesight.core.errors import RecipeError
from finesight.evaluation.metrics.bleu import BLEU
from finesight.evaluation.metrics.cider import CIDER
from finesight.evaluation.metrics.contract import Metric, joined
from finesight.evaluation.metrics.exact_match import EXACT_MATCH, EXACT_MATCH_STRICT
from finesight.evaluation.metrics.rouge_l import ROUGE_L
from finesight.evaluation.metrics.token_f1 import TOKEN_F1

METRICS: Mapping[str, Metric] = {
    "exact_match": EXACT_MATCH,
    "exact_match_strict": EXACT_MATCH_STRICT,
    "token_f1": TOKEN_F1,
    "bleu": BLEU,
    "cider": CIDER,
    "rouge_l": ROUGE_L,
}
"""Every key that `evaluation.metrics` of a recipe may hold, in the order in which help lists them."""


def select(keys: Sequence[str]) -> Metric:
    """The metrics of these keys as one, in the order of the keys; a key named twice counts once.

    Raises RecipeError for a key that is not in METRICS and for no key at all.
    """
    unknown = [key for key in dict.fromkeys(keys) if key not in METRICS]
    if unknown or not keys:
        what = f"There is no metric {', '.join(map(repr, unknown))}." if unknown else "No metric is named."
        raise RecipeError(what, "evaluation.metrics", f"Choose among {', '.join(METRICS)}.")
    return joined([METRICS[key] for key in dict.fromkeys(keys)])
