"""Models from folders: a run, its `model/`, a checkpoint, or any LLaVA folder or hub id."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from finesight.core.errors import ModelError
from finesight.core.ports import Ports
from finesight.core.rundir import RunDirectory
from finesight.models.ports import ports_of
from finesight.training.checkpoint import load_checkpoint
from finesight.training.state import restore_model


@dataclass(frozen=True)
class LoadedModel:
    """A `transformers` model with its processor and ports."""

    model: Any
    processor: Any
    ports: Ports
