"""The `parallel` section: several processes that train one model."""

from typing import Literal

from pydantic import PositiveFloat

from finesight.config.base import Section, Switch

Strategy = Literal["auto", "single", "ddp", "fsdp"]


class Parallel(Section):
    """How the processes that `torchrun` started share the work; none of it changes what is learned."""

    strategy: Strategy = "auto"
    """`ddp`: each process holds the whole model; `fsdp`: each holds a slice of every layer; `auto`: ddp where several
    processes were started, else `single`."""
    timeout: PositiveFloat = 300.0
    """Seconds without a sign of life after which a process counts as lost, and the others end."""
    reshard: Switch = True
    """With fsdp: give a layer's weights back after its forward pass and gather them again for the backward pass. Off,
    it is faster and holds the whole model's weights in between."""
