"""Small tables of pictures for tests, their recipes, and ports of a tiny model."""

import base64
import csv
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from picture_files import encode

from finesight.config.data import Data
from finesight.config.model import Decoder, Scratch, Tokenizer, Vision
from finesight.config.sources import CsvSource, FolderSource
from finesight.core.ports import Ports
from finesight.data.policy import Policy
from finesight.data.sets import SampleSet, read_samples
from finesight.runtime.notices import Notices

WORDS = [
    "red",
    "green and blue",
    "a flag: white over red",
    "¿où est l’été?",
    "日本の旗",
    "a  b",
    "x\ny",
    "🇨🇦 yes",
]


def png(number: int = 0, height: int = 6, width: int = 8) -> bytes:
    """A picture that no other number gives."""
    levels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode(levels, "PNG")


def cell(number: int = 0) -> str:
    """A picture as base64."""
    return base64.b64encode(png(number)).decode()


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return path


def rows(count: int) -> list[dict[str, str]]:
    """Rows with a picture, an answer, a question, and columns to split by."""
    return [
        {
            "image": cell(number),
            "caption": f"{WORDS[number % len(WORDS)]} {number}",
            "question": f"what is {number}?",
            "kind": f"kind {number % 3}",
            "group": f"group {number // 4}",
        }
        for number in range(count)
    ]


def csv_source(path: Path, **values: Any) -> CsvSource:
    return CsvSource(source="csv", path=str(path), **values)


def folder_source(path: Path | str, **values: Any) -> FolderSource:
    return FolderSource(source="folder", path=str(path), **values)


def data(train: Any, **values: Any) -> Data:
    return Data(train=train, **values)


def read(source: Any, notices: Notices | None = None, **values: Any) -> tuple[SampleSet, Policy]:
    """The samples of a source, and the policy that saw its bad rows; `values` are those of `data`."""
    policy = Policy(data(source, **values))
    return read_samples(source, policy, notices or Notices(), "train"), policy


@lru_cache
def tiny_ports() -> Ports:
    """Ports of a model from scratch: 4 visual tokens a picture."""
    from finesight.models.ports import ports_of  # transformers takes seconds
    from finesight.models.scratch import build_config, build_processor

    scratch = Scratch(
        vision=Vision(image_size=8, patch=4, layers=1, heads=1, width=8, mlp=8),
        decoder=Decoder(layers=1, heads=1, width=8, mlp=8, context=96),
        tokenizer=Tokenizer(vocabulary=300),
    )
    processor = build_processor(scratch, WORDS)
    return ports_of(processor, build_config(scratch, processor))
