"""`torch.compile`, layer by layer: like layers share one compiled graph, and the model around them stays as it is."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from torch import nn

from finesight.core.errors import TrainingError


@dataclass(frozen=True)
class Compiled:
    """Layers that are compiled in place: neither names nor values of the model change."""

    layers: Sequence[nn.Module]

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """While open, the layers compute as they are written: for answers, whose shapes change with each token."""
        calls = [layer._compiled_call_impl for layer in self.layers]
        self.take_out()
        try:
            yield
        finally:
            for layer, call in zip(self.layers, calls, strict=True):
                layer._compiled_call_impl = call

    def take_out(self) -> None:
        """Let the layers compute as they are written from now on."""
        for layer in self.layers:
            layer._compiled_call_impl = None


def compile_layers(layers: Sequence[nn.Module], backend: str = "inductor") -> Compiled:
    """Compile layers in place, for tensors of any size; nothing is compiled before they are called.

    Raises TrainingError where this machine has no compiler.
    """
    if backend == "inductor":
        _ensure_compiler(next(layers[0].parameters()).device.type)
    from torch._dynamo import config  # which takes seconds to import

    # it would cut graphs at the buckets of DDP, which a layer is smaller than, and cannot cut checkpointed ones
    config.optimize_ddp = False
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    return Compiled(layers)


def _ensure_compiler(device: str) -> None:
    named = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as inductor chooses it
    if shutil.which(named) is None:
        raise TrainingError(
            f"`torch.compile` writes C++, and this machine has no {named}",
            "train.compile",
            "install one (`apt install g++`), name it in the environment variable CXX, or take `train.compile` out",
        )
    if device == "cuda" and find_spec("triton") is None:
        raise TrainingError(
            "`torch.compile` needs triton on a GPU, which is not installed",
            "train.compile",
            "`pip install triton`, or take `train.compile` out",
        )
