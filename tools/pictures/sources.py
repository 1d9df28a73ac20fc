"""Pinned npm packages that carry the drawings and names, fetched with ``npm pack`` and read as archives."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class SourceError(Exception):
    """A package cannot be fetched, or lacks what the build needs of it."""


@dataclass(frozen=True)
class Package:
    """One pinned npm package."""

    name: str
    version: str

    @property
    def archive_name(self) -> str:
        """File name that ``npm pack`` gives the package."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


FLAG_ICONS = Package("flag-icons", "7.5.0")
CIRCLE_FLAGS = Package("circle-flags", "2.8.3")
FLAGPACK = Package("@iconify-json/flagpack", "1.2.8")
NOTO_WAVING = Package("emoji-datasource-google", "16.0.0")
COUNTRIES = Package("countries-list", "3.4.1")
NOTO = Package("@iconify-json/noto", "1.2.9")
NOTO_V1 = Package("@iconify-json/noto-v1", "1.2.5")
FXEMOJI = Package("@iconify-json/fxemoji", "1.2.2")
FLUENT_FLAT = Package("@iconify-json/fluent-emoji-flat", "1.2.6")
TWEMOJI = Package("@iconify-json/twemoji", "1.2.5")
EMOJIBASE = Package("emojibase-data", "17.0.0")


class Library:
    """The packages in one cache folder; a package that is not there yet is downloaded."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def files(self, package: Package, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        """Contents of the package's files whose path inside the package is ``wanted``."""
        found = {}
        with tarfile.open(self._archive(package)) as archive:
            for member in archive:
                path = member.name.partition("/")[2]
                content = archive.extractfile(member) if wanted(path) else None
                if content is not None:
                    found[path] = content.read()
        if not found:
            raise SourceError(f"{package.name} {package.version} holds none of the files asked for")
        return found

    def json(self, package: Package, path: str) -> Any:
        """The package's JSON file at ``path``."""
        return json.loads(self.files(package, path.__eq__)[path])

    def _archive(self, package: Package) -> Path:
        archive = self._cache / package.archive_name
        if archive.exists():
            return archive
        self._cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        try:
            subprocess.run(command, cwd=self._cache, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise SourceError("npm is not installed: it comes with Node.js") from None
        except subprocess.CalledProcessError as failure:
            raise SourceError(f"`{' '.join(command)}` failed:\n{failure.stderr.strip()}") from None
        return archive


class IconSet:
    """SVG drawings of an Iconify JSON package, by name or alias.

    Format: https://iconify.design/docs/types/iconify-json.html
    """

    def __init__(self, library: Library, package: Package) -> None:
        self._set = library.json(package, "icons.json")

    def __contains__(self, name: str) -> bool:
        return name in self._set["icons"] or name in self._set.get("aliases", {})

    def svg(self, name: str) -> str:
        """The drawing as a whole SVG document."""
        parent = self._set.get("aliases", {}).get(name, {"parent": name})["parent"]
        icon = self._set["icons"][parent]
        left, top = icon.get("left", 0), icon.get("top", 0)
        width = icon.get("width", self._set.get("width", 16))
        height = icon.get("height", self._set.get("height", 16))
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
        )
