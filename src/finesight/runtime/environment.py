"""What a run needs to be understood and repeated: versions, hardware, git state, the command without secrets."""

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "numpy",
    "pillow",
    "pydantic",
    "matplotlib",
)
"""What finesight computes with."""

_SECRET = re.compile(r"(?i)token(?![a-z])|secret|passw|api[_-]?key|credential")
"""Names of what must not be told; `max_new_tokens` and `tokenizer` are none."""

_TOKEN = re.compile(r"\b(hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{8,})")

_LOGIN = re.compile(r"://[^/@\s]+@")
"""Name and password in an address."""


def cores() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def without_secrets(words: list[str]) -> list[str]:
    """Command-line words with what looks like a secret blotted out."""
    clean, hide_next = [], False
    for word in words:
        key, equals, _ = word.partition("=")
        if hide_next:
            word = "***"
        elif equals and _SECRET.search(key):
            word = f"{key}=***"
        hide_next = not equals and word.startswith("-") and bool(_SECRET.search(word))
        clean.append(_LOGIN.sub("://***@", _TOKEN.sub("***", word)))
    return clean


def shown(value: Any, key: str = "") -> Any:
    """A recipe, or a part of one, with what looks like a secret blotted out."""
    if isinstance(value, dict):
        return {name: shown(part, str(name)) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [shown(part, key) for part in value]
    if isinstance(value, str):
        return "***" if value and _SECRET.search(key) else _LOGIN.sub("://***@", _TOKEN.sub("***", value))
    return value


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what a run computes."""
    found = {"python": platform.python_version()}
    for name in ("finesight", *LIBRARIES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the folder that the command ran in, and whether it had changes; None outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def describe_machine() -> dict[str, Any]:
    """Processor, cores and memory."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": pages,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = re.search(r"model name\s*:\s*(.+)", info.read_text(errors="replace"))
        if named:
            return named.group(1)
    return platform.processor() or platform.machine()


def _program() -> str:
    """The command's name, however it was started (`python -m finesight` too)."""
    name = Path(sys.argv[0]).name
    return "finesight" if name == "__main__.py" else name


def environment() -> dict[str, Any]:
    """The record that `environment.json` begins with."""
    return {
        "versions": versions(),
        "machine": describe_machine(),
        "git": git_state(Path.cwd()),
        "command": without_secrets([_program(), *sys.argv[1:]]),
    }
