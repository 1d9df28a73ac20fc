"""A `.gguf` file as a folder of safetensors with its tokenizer: converted once, then kept in the cache."""

import importlib.util
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from finesight.core.errors import ModelError
from finesight.models.compose.sources import READ_ERRORS, said
from finesight.runtime.cachedir import NoCache, cached
from finesight.runtime.quiet import no_progress_bars

_KIND, _FORM = "gguf", 1


def converted(file: Path) -> str:
    """The folder with the weights in fp32 and the tokenizer; quantised values are written out as they are.

    Raises ModelError where the file cannot be read, where the package `gguf` is missing, or where there is no cache.
    """
    if not file.is_file():
        raise ModelError("there is no such file", str(file), "give the path of a `.gguf` file")
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise ModelError(f"a `.gguf` file needs the package {names}", str(file), f"`pip install {names}`")
    facts = file.stat()

    def write(folder: Path) -> None:
        where, name = str(file.parent), file.name
        with no_progress_bars():
            read = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype="float32")
            _plain(read).save_pretrained(folder)
            AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)

    try:
        key = f"{file.resolve()} {facts.st_size} {facts.st_mtime_ns}"
        return str(cached(_KIND, key, _FORM, write, source=str(file.resolve())))
    except NoCache as error:
        raise ModelError(
            f"a converted `.gguf` file needs room in the cache: {error}",
            str(file),
            "make room, or convert it yourself",
        ) from error
    except READ_ERRORS as error:
        raise ModelError(
            f"it cannot be converted: {said(error)}",
            str(file),
            "name a `.gguf` file that `transformers` reads",
        ) from error


def _plain(read: Any) -> Any:
    """A model of ordinary matrices with the values of one that was read from a `.gguf` file, which cannot be saved."""
    values = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(read.config).from_dict(values), dtype="float32")
    model.load_state_dict(read.state_dict())
    return model
