"""A plain Hugging Face folder, or `peft`'s: weights, processor, decoding settings and a model card."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finesight.config.train import Generation
from finesight.core.ports import Ports
from finesight.models.decoding import decoding
from finesight.runtime.files import TEMPORARY, sync_directory, sync_file, told_when_full, write_text
from finesight.runtime.quiet import no_progress_bars


def save_folder(
    folder: Path, model: Any, processor: Any, ports: Ports, generation: Generation, card: str
) -> None:
    """Write the whole folder under a temporary name, then rename it into place; an older one is replaced."""
    model.generation_config = decoding(generation, ports)
    _write_whole(folder, model.save_pretrained, processor, card)


def save_adapter_folder(
    folder: Path,
    write_adapter: Callable[[Path], object],
    processor: Any,
    ports: Ports,
    generation: Generation,
    card: str,
) -> None:
    """The same for an adapter, whose own files are written by `write_adapter`; the base model is not in it."""

    def write(temporary: Path) -> None:
        temporary.mkdir(parents=True)
        write_adapter(temporary)
        decoding(generation, ports).save_pretrained(temporary)

    _write_whole(folder, write, processor, card)


def _write_whole(folder: Path, write: Callable[[Path], object], processor: Any, card: str) -> None:
    temporary = folder.with_name(folder.name + TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    with told_when_full(folder.parent), no_progress_bars():
        write(temporary)
        processor.save_pretrained(temporary)
        write_text(temporary / "README.md", card)
        for path in temporary.iterdir():
            sync_file(path)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    sync_directory(folder.parent)


def save_skeleton(
    folder: Path, config: Any, processor: Any, write_adapter: Callable[[Path], object] | None = None
) -> None:
    """Write configuration and processor alone, and an adapter's configuration: what a checkpoint's weights need to
    become a model."""
    temporary = folder.with_name(folder.name + TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    with told_when_full(folder.parent):
        config.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        if write_adapter is not None:
            write_adapter(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
