"""The base model of an adapter: where it is, and how one knows that it is still the same."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peft import LoraConfig

from finesight.config.loading import Compute, Quantize
from finesight.core.errors import ModelError
from finesight.core.formats import FORMATS, check_format
from finesight.runtime.files import write_json

RECORD = "finesight.json"
"""File of an adapter folder that says what `peft`'s own files do not: the base's fingerprint, and how it was loaded."""


@dataclass(frozen=True)
class Base:
    """A base model: an absolute folder or a hub id, with the revision and the fingerprint of its weights.

    `quantize` tells in which numbers its matrices were loaded, `compute` in which they were multiplied then. An adapter
    from elsewhere knows no fingerprint.
    """

    place: str
    revision: str | None = None
    fingerprint: str | None = None
    quantize: Quantize | None = None
    compute: Compute = "fp32"

    def facts(self) -> dict[str, Any]:
        """As `environment.json` and an adapter's folder hold it."""
        return asdict(self)


def base_at(
    place: str, revision: str | None = None, quantize: Quantize | None = None, compute: Compute = "fp32"
) -> Base:
    """The base at a folder, or at the commit `revision` of a hub id."""
    folder = Path(place)
    if folder.is_dir():
        return Base(str(folder.resolve()), None, _fingerprint(folder), quantize, compute)
    return Base(place, revision, revision and f"commit:{revision}", quantize, compute)


def write_record(folder: Path, base: Base) -> None:
    """Write what `read_base` reads; a base in a folder is also named as seen from the run, so that both can move."""
    facts = base.facts()
    if Path(base.place).is_absolute():
        facts["relative"] = os.path.relpath(base.place, folder.absolute())
    write_json(folder / RECORD, {"format": FORMATS["adapter"], "base": facts})


def read_base(folder: Path, config: LoraConfig) -> Base:
    """The base of an adapter folder, at its place of now; raises ModelError where it is gone."""
    record = folder / RECORD
    if not record.is_file():
        return Base(_found(folder, str(config.base_model_name_or_path or ""), None), config.revision)
    try:
        saved = json.loads(record.read_text(encoding="utf-8"))
        check_format("adapter", saved["format"], str(record), ModelError)
        facts = dict(saved["base"])
        place, relative = str(facts["place"]), facts.get("relative")
        keys = ("revision", "fingerprint", "quantize", "compute")
        base = Base(place, **{key: facts[key] for key in keys})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the record of the adapter's base cannot be read ({type(error).__name__})",
            str(record),
            "put back the file that was saved with the adapter",
        ) from error
    return replace(base, place=_found(folder, place, relative))


def check_same(known: Base, now: Base, where: str) -> None:
    """Raise ModelError where the base is no longer the one that an adapter was made for."""
    if known.fingerprint is not None and known.fingerprint != now.fingerprint:
        raise ModelError(
            f"the base model changed since this adapter was made for it: {now.place}",
            where,
            "put back the base that it was made for, or train another adapter",
        )


def _found(folder: Path, place: str, relative: Any) -> str:
    """Where the base is now: at its old place, or where it was as seen from the adapter."""
    if not place:
        raise ModelError(
            "this adapter does not name its base model", str(folder), "name it in `base_model_name_or_path`"
        )
    if Path(place).exists():
        return place
    if relative is not None and (folder / str(relative)).is_dir():
        return str((folder / str(relative)).resolve())
    if Path(place).is_absolute():
        raise ModelError(
            f"the base model of this adapter is gone: {place}",
            str(folder),
            f"put it back, or write its new place into `{RECORD}` there",
        )
    return place


def _fingerprint(folder: Path) -> str:
    """Of a model folder: its configuration and every file of weights."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        if path.is_file():
            digest.update(f"{path.name}:{path.stat().st_size}:".encode())
            with open(path, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
