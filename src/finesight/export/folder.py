"""A plain Hugging Face folder: weights, processor, decoding settings and a model card."""

import os
import shutil
from pathlib import Path
from typing import Any

from finesight.config.train import Generation
from finesight.core.ports import Ports
from finesight.models.decoding import decoding
from finesight.models.quiet import no_progress_bars
from finesight.runtime.files import TEMPORARY, sync_directory, sync_file, told_when_full, write_text


def save_folder(
    folder: Path, model: Any, processor: Any, ports: Ports, generation: Generation, card: str
) -> None:
    """Write the whole folder under a temporary name, then rename it into place; an older one is replaced."""
    temporary = folder.with_name(folder.name + TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    model.generation_config = decoding(generation, ports)
    with told_when_full(folder.parent), no_progress_bars():
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        write_text(temporary / "README.md", card)
        for path in temporary.iterdir():
            sync_file(path)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    sync_directory(folder.parent)


def save_skeleton(folder: Path, config: Any, processor: Any) -> None:
    """Write configuration and processor alone: what a checkpoint's weights need to become a model."""
    temporary = folder.with_name(folder.name + TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    with told_when_full(folder.parent):
        config.save_pretrained(temporary)
        processor.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
