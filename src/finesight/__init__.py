"""finesight trains, evaluates and explains vision-language models from one YAML recipe.

`import finesight as fs` is light: `fs.train`, `fs.inspect`, `fs.convert`, `fs.evaluate`, `fs.generate`,
`fs.export_model`, `fs.load_model` and `fs.load_data` load what they need when they are first named.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["convert", "evaluate", "export_model", "generate", "inspect", "load_data", "load_model", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("finesight.api"), name)
    raise AttributeError(f"module 'finesight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
