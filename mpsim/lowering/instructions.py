"""Instructions: what a rank does, written once for the replay and for real runs.

A pass of `mpsim.lowering.passes` takes the instructions of a *pipeline rank* and returns them with more said. In these
a peer is a pipeline rank, a key is a tuple that both ends of a message have, a group is not yet known and nothing takes
any time. `mpsim.lowering.bind` then makes them those of one *rank*: peers and groups are devices, keys are numbers,
computations take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from mpsim.lowering.launch import NO_LAUNCH, Launch

__all__ = [
    "Bucket",
    "Collective",
    "Compute",
    "Copies",
    "Copy",
    "Drop",
    "Hold",
    "Instruction",
    "Instructions",
    "Key",
    "Listed",
    "Of",
    "Parts",
    "Post",
    "Receive",
    "Script",
    "Send",
    "Shard",
    "Tied",
    "Unit",
    "Wait",
    "backward_of",
]

# What both ends of a message know it by. Before binding, that of a message is a number among those of one rank in each
# stage, that of a collective a tuple; after it, all are numbers.
Key: TypeAlias = Any
_WORDS = {
    "F": "forward",
    "R": "recompute",
    "B": "backward",
    "I": "backward_input",
    "W": "backward_weight",
    "U": "optimizer",
}


class Compute(NamedTuple):
    """Layers ``first..last-1`` of the workload in one pass of one micro-batch.

    Attributes
    ----------
    stage, microbatch : int
        Whose; an update of all gradients of a step is of micro-batch -1.
    pass_kind : str
        F, B, I, W, R for a forward that runs again before a backward, or U for the optimizer's update.
    first, last : int
        Layers of the workload.
    seconds : float
        How long.
    launch : Launch
        What a device's host does before, where its trace has a host.
    overlaps : bool
        Whether what it communicates goes on beside the computation that follows.
    """

    stage: int
    pass_kind: str
    microbatch: int
    first: int
    last: int
    seconds: float = 0.0
    launch: Launch = NO_LAUNCH
    overlaps: bool = False

    @property
    def name(self) -> str:
        """Such as ``0F3``."""
        return "update" if self.microbatch < 0 else f"{self.stage}{self.pass_kind}{self.microbatch}"

    @property
    def kind(self) -> str:
        """The pass in a word, as a result has it."""
        return _WORDS[self.pass_kind]

    def __str__(self) -> str:
        return f"{self.name}[{self.first}:{self.last}]"


class _Message(NamedTuple):
    """What either end of a message says of it.

    `key` is the same at both ends and unique in the step; `peer` is an index into the topology's devices; `direction`
    is ``F`` for activations and ``B`` for gradients; `stage` is the sender's and `to` the receiver's.
    """

    key: Key
    peer: int
    bytes: int
    stage: int
    to: int
    microbatch: int
    direction: str

    @property
    def name(self) -> str:
        """Such as ``0F3>1``."""
        return f"{self.stage}{self.direction}{self.microbatch}>{self.to}"


class Send(_Message):
    """Hand a message to the runtime and go on; a `Wait` for its key is over once the buffer can be used again."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"send {self.name}"


class Receive(_Message):
    """Tell the runtime where a message will go; a `Wait` for its key is over once all of it is there."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"receive {self.name}"


class Bucket(NamedTuple):
    """Gradients of a stage that are all-reduced together."""

    number: int

    @property
    def name(self) -> str:
        """Such as ``bucket 3``."""
        return f"bucket {self.number}"


class Tied(NamedTuple):
    """The gradient of a parameter that several stages hold."""

    parameter: str

    @property
    def name(self) -> str:
        """Such as ``tied embedding.weight``."""
        return f"tied {self.parameter}"


class Copies(NamedTuple):
    """The gradients of a stage of which there are several copies."""

    stage: int

    @property
    def name(self) -> str:
        """Such as ``copies of stage 0``."""
        return f"copies of stage {self.stage}"


class Parts(NamedTuple):
    """The gradients of a stage of which ranks that share a sequence have parts."""

    stage: int

    @property
    def name(self) -> str:
        """Such as ``parts of stage 0``."""
        return f"parts of stage {self.stage}"


class Unit(NamedTuple):
    """The parameters, or the gradients, of a unit that replicas shard."""

    path: str

    @property
    def name(self) -> str:
        """Such as ``unit layers.3``."""
        return f"unit {self.path or 'root'}"


class Shard(NamedTuple):
    """What the ranks that share a layer exchange in one pass, one collective after another."""

    layer: int
    number: int
    within: str

    @property
    def name(self) -> str:
        """The pass within which it is, such as ``0F3``."""
        return self.within


class Listed(NamedTuple):
    """One of a list of collectives that is all there is."""

    number: int
    kind: str

    @property
    def name(self) -> str:
        """Such as ``all_reduce 0``."""
        return f"{self.kind} {self.number}"


Of = Bucket | Tied | Copies | Parts | Shard | Unit | Listed


class Collective(NamedTuple):
    """Hand a collective to the runtime and go on, until a `Wait` for its key.

    Attributes
    ----------
    key : int
        The same on each rank of the group.
    of : Of
        What is exchanged.
    kind : str
        ``all_reduce``, ``all_gather``, ...
    axis : str
        Along which axis of the grid: ``dp``, ``pp``, ``tp`` or ``""``.
    group : tuple of int
        Devices, in ring order.
    bytes : int
        Of the whole tensor.
    stage, microbatch : int
        Whose; -1 where there is none.
    behind : int or None
        A collective of the same rank that has to be complete before, for which the rank itself does not wait.
    experts : bool
        Whether it is among those alone that hold the same experts, and in the way of none among all replicas.
    """

    key: Key
    of: Of
    kind: str
    axis: str
    group: tuple[int, ...]
    bytes: int
    stage: int
    microbatch: int
    behind: Key | None = None
    experts: bool = False

    @property
    def name(self) -> str:
        """What it is of."""
        return self.of.name

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Copy(NamedTuple):
    """Begin a copy of what a layer keeps, to the host or back, and go on; a `Wait` for its key is over once it is done.

    Away, what the key of a `Hold` is held by is held until then; back, it is held from the beginning of the copy on.
    """

    key: Key
    away: bool
    bytes: int
    stage: int
    microbatch: int
    layer: int

    @property
    def name(self) -> str:
        """The pass that keeps it, or needs it, such as ``0F3``."""
        return f"{self.stage}{'F' if self.away else 'B'}{self.microbatch}"

    def __str__(self) -> str:
        return f"{'offload' if self.away else 'reload'} {self.name}[{self.layer}]"


class Wait(NamedTuple):
    """Do nothing until all of these messages and collectives are complete."""

    keys: tuple[Key, ...]

    def __str__(self) -> str:
        return "wait"


class Hold(NamedTuple):
    """From what is computed or reduced next on, so many bytes are held, by a holder as in `MemoryUse`."""

    key: Key
    holder: str
    bytes: int

    def __str__(self) -> str:
        return f"hold {self.holder}"


class Drop(NamedTuple):
    """Up to the end of what was computed or reduced last, what has this key was held."""

    key: Key

    def __str__(self) -> str:
        return "drop"


Post = Send | Receive | Collective
Instruction = Compute | Post | Copy | Wait | Hold | Drop
Instructions = list[Instruction]


def backward_of(instructions: Instructions, at: int) -> Compute:
    """Return the first part of the backward for which what stands at a place is computed again.

    Examples
    --------
    >>> row = [Compute(0, "R", 1, 0, 2), Compute(0, "B", 0, 0, 2), Compute(0, "B", 1, 0, 2)]
    >>> str(backward_of(row, 0))
    '0B1[0:2]'
    """
    again = instructions[at]
    behind = (instructions[i] for i in range(at + 1, len(instructions)))
    return next(
        one for one in behind if isinstance(one, Compute) and one.pass_kind in "BI" and one[0:3:2] == again[0:3:2]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The instructions of one rank, in order.

    Attributes
    ----------
    device : int
        Index into the topology's devices.
    rank : int
        In the plan's grid.
    steps : tuple of Instruction
        What it does.
    """

    device: int
    rank: int
    steps: tuple[Instruction, ...]
