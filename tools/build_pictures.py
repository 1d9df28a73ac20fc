"""Rebuild the pictures that ship with finesight, byte for byte, from pinned npm packages.

    python tools/build_pictures.py                  # both sets, into src/finesight/assets/pictures
    python tools/build_pictures.py flags --check    # rebuild elsewhere and compare with what is shipped

Sets: ``flags`` (rule of the answers: ``pictures/colours.py``; splits: ``pictures/flags.py``) and ``things``
(``pictures/things.py``). The README beside each set is written by hand and is not touched.

Needs npm and the network for what is not in the cache yet, and the exact versions in ``TOOLS``: another
release may render or compress a pixel differently.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
from pathlib import Path

SHIPPED = Path(__file__).resolve().parent.parent / "src" / "finesight" / "assets" / "pictures"
CACHE = Path.home() / ".cache" / "finesight" / "npm"
TOOLS = {"pillow": "13.0.0", "resvg-py": "0.5.0"}
SETS = ("flags", "things")


def main() -> int:
    """Build or check the sets asked for; exit status 0, 1 if something differs, 2 without the right tools."""
    arguments = _arguments()
    faults = tool_faults()
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        return 2
    chosen = SETS if arguments.set == "both" else (arguments.set,)
    if not arguments.check:
        build(chosen, arguments.cache, SHIPPED)
        return 0
    with tempfile.TemporaryDirectory() as rebuilt:
        build(chosen, arguments.cache, Path(rebuilt))
        found = [fault for name in chosen for fault in differences(Path(rebuilt) / name, SHIPPED / name)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


def build(chosen: tuple[str, ...], cache: Path, target: Path) -> None:
    """Write the chosen sets into folders of ``target``."""
    # Imported here, so that a missing tool is reported by ``tool_faults`` and not by a traceback.
    from pictures import flags, things
    from pictures.sources import Library

    library = Library(cache)
    for name in chosen:
        {"flags": flags, "things": things}[name].build(library, target / name)


def tool_faults() -> list[str]:
    """One line for each tool that is missing or of another version."""
    found = []
    for tool, needed in TOOLS.items():
        try:
            installed = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            installed = "no release"
        if installed != needed:
            found.append(
                f"{tool}: {installed} is installed, {needed} is needed: pip install {tool}=={needed}"
            )
    return found


def differences(rebuilt: Path, shipped: Path) -> list[str]:
    """Files that are missing, left over or different in ``shipped``, but for its README."""
    files = {
        path.relative_to(root) for root in (rebuilt, shipped) for path in root.rglob("*") if path.is_file()
    }
    found = []
    for file in sorted(files - {Path("README.md")}):
        if not (shipped / file).exists():
            found.append(f"missing: {shipped / file}")
        elif not (rebuilt / file).exists():
            found.append(f"left over: {shipped / file}")
        elif (shipped / file).read_bytes() != (rebuilt / file).read_bytes():
            found.append(f"different: {shipped / file}")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Rebuild the pictures that ship with finesight.")
    parser.add_argument("set", nargs="?", choices=(*SETS, "both"), default="both")
    parser.add_argument("--check", action="store_true", help="compare with the shipped files, change nothing")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help=f"folder of npm packages (default: {CACHE})"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
