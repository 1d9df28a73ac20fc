"""Where a recipe's paths lead: to the person's files, or into the data that finesight ships."""

import difflib
import re
from importlib.resources import files
from pathlib import Path

from finesight.core.errors import DataError

SHIPPED = "shipped:"
_TEXTS = ("pronunciations",)
"""Shipped data without pictures."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(://|::.*://)")
_LOCAL = re.compile(r"(file|local)://", re.IGNORECASE)


def is_address(path: str) -> bool:
    """Whether `path` names a place beyond this machine's folders: `s3://…`, `https://…`, `memory://…`."""
    return _ADDRESS.match(path) is not None and _LOCAL.match(path) is None


def resolve_path(path: str, key: str = "path") -> Path:
    """The existing file or folder that `path` names; `shipped:flags/flags.csv` is part of finesight itself.

    `file://` is taken off. `key` is the recipe key that the path stands under; a DataError about a missing file names
    it, and so does one about an address (`is_address`), which only some sources can read.
    """
    if is_address(path):
        what = f"`{path[:100]}` is an address, and a file or folder of this machine is needed"
        raise DataError(what, key, "download it, and give the path")
    path = _LOCAL.sub("", path, count=1) if _LOCAL.match(path) else path
    shipped = path.startswith(SHIPPED)
    name = path.removeprefix(SHIPPED)
    kind = "texts" if name.split("/")[0] in _TEXTS else "pictures"
    root = Path(str(files("finesight") / "assets" / kind))
    place = root / name if shipped else Path(path).expanduser()
    if shipped and not place.resolve().is_relative_to(root.resolve()):
        raise DataError(f"`{path}` leads out of the shipped data", key, "name a file below `shipped:`")
    try:
        missing = not place.exists()
    except (OSError, ValueError) as error:  # a name too long, or with a null character
        raise DataError(
            f"`{path[:100]}` cannot be a path: {error}", key, "give the path of a file"
        ) from error
    if missing:
        raise DataError(f"`{path}` does not exist", f"{key}, seen from {Path.cwd()}", _cure(place))
    return place


def _cure(place: Path) -> str:
    parent = place.parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist either; give a path relative to where the command runs"
    names = sorted(item.name for item in parent.iterdir())
    near = difflib.get_close_matches(place.name, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}, in the same folder?"
    return f"{parent} holds {', '.join(names[:8]) or 'nothing'}{', …' if len(names) > 8 else ''}"
