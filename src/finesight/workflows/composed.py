"""A recipe's composed model: its parts found, its tokenizer learned where it has none, its ports."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from finesight.config.compose import Compose
from finesight.core.ports import Ports
from finesight.models.compose.build import Parts, build_config, build_model, build_processor, open_parts
from finesight.models.load import LoadedModel
from finesight.models.ports import ports_of
from finesight.models.scratch import learn_tokenizer
from finesight.runtime.notices import Notices
from finesight.workflows.places import model_place


def composed_model(
    compose: Compose, seed: int, tokenizer: Callable[[int], str], notices: Notices
) -> LoadedModel:
    """The model with weights and processor; `tokenizer` learns one of that many tokens where the parts have none."""
    parts = _parts(compose)
    learned = None
    if parts.language.tokenizer is None:
        learned = tokenizer(compose.language.learned)
    processor = build_processor(parts, learned)
    model = build_model(parts, processor, seed)
    if not parts.plain:
        told = (
            "it is no plain LLaVA model: its folder carries modeling_finesight.py, and others load it with "
        )
        notices.add("format", told + "`trust_remote_code=True`")
    return LoadedModel(model, processor, ports_of(processor, model.config))


def composed_ports(compose: Compose, words: Iterable[str]) -> Ports:
    """Ports without weights; a tokenizer learns from `words`."""
    parts = _parts(compose)
    learned = None
    if parts.language.tokenizer is None:
        learned = learn_tokenizer(words, compose.language.learned)
    processor = build_processor(parts, learned)
    return ports_of(processor, build_config(parts, processor))


def _parts(compose: Compose) -> Parts:
    """The parts, where one that names a run means the run's finished model."""

    def found(part: Any) -> Any:
        if part.pretrained is None or not (Path(part.pretrained) / "recipe.yaml").is_file():
            return part
        return part.model_copy(update={"pretrained": model_place(part.pretrained)})

    parts = {"vision": found(compose.vision), "language": found(compose.language)}
    ears = {} if compose.audio is None else {"audio": found(compose.audio)}
    return open_parts(compose.model_copy(update={**parts, **ears}))
