"""What the hub's client knows of a hub id: whether it is an adapter, and at which commit it is."""

from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from finesight.core.errors import ModelError

CONFIG = "adapter_config.json"

_LEFT_OUT = ("*/*", "*.bin", "*.pt", "*.pth", "*.ckpt", "optimizer*")
"""What a repository of an adapter may hold beside it: other folders, and what is unpickled or belongs to training."""


def commit_of(name: str, revision: str | None) -> str | None:
    """The commit of a model's hub id at a revision, its newest one where none is named; None where it cannot be had.

    `transformers` does not tell which one it has read. The files of a commit are in a folder of its name.
    """
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except (OSError, EntryNotFoundError, HFValidationError):
        return None


def hub_adapter(name: str, revision: str | None) -> Path | None:
    """The folder in the hub's cache with the adapter of a hub id; None where that is a model, or where there is none:
    an adapter's repository has `adapter_config.json` in place of `config.json`.

    Only what is not in the cache, or may have changed since, is asked of the hub. Raises ModelError where the adapter
    is known, and its files cannot be had.
    """
    try:
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return None
        config = hf_hub_download(name, CONFIG, revision=revision)
    except (OSError, EntryNotFoundError, HFValidationError):
        return None  # a model, or nothing: whoever loads it tells
    commit = Path(config).parent.name
    try:
        return Path(snapshot_download(name, revision=commit, ignore_patterns=list(_LEFT_OUT)))
    except (OSError, EntryNotFoundError) as error:
        raise ModelError(
            f"the adapter's files cannot be had: {(str(error).strip() or type(error).__name__).splitlines()[0]}",
            f"{name} at {commit}",
            "check the connection, or copy the adapter into a folder",
        ) from error
