"""The script: what one rank of a plan does, step by step, as a program written for that rank would.

A script is what a real process runs (`mpsim.emulate`) and what the lowering of a message-passing runtime plays
(`mpsim.lowering.script_emitter`): both read the same steps, so that what is compared is the runtime, not the reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mpsim.lowering.times import NO_LAUNCH, Launch

__all__ = ["Collective", "Compute", "Receive", "Script", "Send", "Step", "Wait"]


class Compute(NamedTuple):
    """Layers ``first..last-1`` of the workload in one pass of one micro-batch, for so many seconds.

    `kind` is ``forward``, ``backward``, ``backward_input``, ``backward_weight`` or ``optimizer`` (then `microbatch`
    is -1). `launch` is what a device's host does before, where its trace has a host.
    """

    name: str
    kind: str
    seconds: float
    stage: int
    microbatch: int
    first: int
    last: int
    launch: Launch = NO_LAUNCH


class Send(NamedTuple):
    """Hand a message to the runtime and go on; a `Wait` for its key is over once the buffer can be used again.

    `key` is the same at both ends and unique in the step; `peer` is an index into the topology's devices;
    `direction` is ``F`` for activations and ``B`` for gradients.
    """

    key: int
    name: str
    peer: int
    bytes: int
    stage: int
    microbatch: int
    direction: str


class Receive(NamedTuple):
    """Tell the runtime where a message will go; a `Wait` for its key is over once all of it is there."""

    key: int
    name: str
    peer: int
    bytes: int
    stage: int
    microbatch: int
    direction: str


class Collective(NamedTuple):
    """Hand a collective over `group` (devices, in ring order) to the runtime and go on, until a `Wait` for its key.

    Each rank of the group has it under the same key. `bytes` is the whole tensor.
    """

    key: int
    name: str
    kind: str
    axis: str
    group: tuple[int, ...]
    bytes: int
    stage: int
    microbatch: int


class Wait(NamedTuple):
    """Do nothing until all of these messages and collectives are complete."""

    keys: tuple[int, ...]


Step = Compute | Send | Receive | Collective | Wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The steps of one rank.

    Attributes
    ----------
    device : int
        Index into the topology's devices.
    replica, stage, tp_rank : int
        Where the rank stands in ``arange(dp * pp * tp).reshape(dp, pp, tp)``.
    steps : tuple of Step
        In order.
    """

    device: int
    replica: int
    stage: int
    tp_rank: int
    steps: tuple[Step, ...]
