"""What an explanation is made of: parts of the step, steps of its critical path, full links, what-ifs."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpsim.plan.model import Plan
from mpsim.reprs import short_repr
from mpsim.topology.model import Topology

__all__ = ["PARTS", "FullLink", "Part", "PathStep", "WhatIf"]

# What each part of the step means, in the order in which they are told; defined in docs/model.md.
PARTS = {
    "compute": "computing",
    "recompute": "forwards run again",
    "slowed": "computing slowed by transfers",
    "communication": "exposed communication",
    "launch": "exposed launch",
    "bubble": "pipeline bubble",
    "imbalance": "imbalance of stages and devices",
    "behind launches": "idle behind others' launches",
    "behind communication": "idle behind others' transfers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the step, on the mean device.

    Attributes
    ----------
    name : str
        A key of `PARTS`.
    what : str
        Of communication its axis and kind, such as ``tp all_reduce``.
    link : str
        Of communication the kind of link that held it up; ``""`` where no link did.
    seconds : float
        Whole units of the last bit of the step: all parts add up to it exactly, in any order.
    """

    name: str
    what: str = ""
    link: str = ""
    seconds: float

    @property
    def label(self) -> str:
        """It in words.

        Examples
        --------
        >>> Part(name="communication", what="pp send", link="ib_ndr", seconds=1.0).label
        'exposed pp send over ib_ndr'
        """
        if not self.what:
            return PARTS[self.name]
        return f"exposed {self.what}" + (f" over {self.link}" if self.link else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStep:
    """One task of the critical path, and what let it start.

    Attributes
    ----------
    name, what : str
        Such as ``0F3``, and ``forward``, ``launch``, ``pp send`` or ``tp all_reduce``.
    moves : bool
        Whether it is a transfer.
    devices : tuple of str
        Where it runs; of a transfer those that take part; each with how many it stands for.
    stage, microbatch : int
        -1 where they have no meaning.
    start_s, end_s : float
        From when to when the step waits for it; the next one starts as this ends.
    link : str
        Of a transfer the kind of link that held it up.
    latency_s : float
        Of its time that of latency.
    shared_s : float
        Of its time what it took longer than alone on its links.
    because : str
        What let it start.
    """

    name: str
    what: str
    moves: bool = False
    devices: tuple[str, ...]
    stage: int = -1
    microbatch: int = -1
    start_s: float
    end_s: float
    link: str = ""
    latency_s: float = 0.0
    shared_s: float = 0.0
    because: str = ""

    __repr__ = short_repr

    @property
    def takes_s(self) -> float:
        """How long the step waits for it."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class FullLink:
    """A link that carries all that it can for some of the step.

    Attributes
    ----------
    source, target, kind : str
        Its ends, and its type, or its bandwidth where it has none.
    count : int
        Links that are full at the same moments, of which this is the first.
    full_s : float
        For how long.
    shared_s : float
        Of it, while several transfers share it: what a single one does not ask for alone.
    when : tuple of (float, float)
        From and until, in order of time.
    users : tuple of (str, float)
        What fills it, and for how long each is under way while it is full, most first.
    """

    source: str
    target: str
    kind: str
    count: int = 1
    full_s: float
    shared_s: float
    when: tuple[tuple[float, float], ...]
    users: tuple[tuple[str, float], ...]

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The same step with one thing changed, simulated again.

    Attributes
    ----------
    name : str
        What is changed.
    detail : str
        What follows from it: the plan or the topology that was simulated, where its name does not say so.
    step_s : float or None
        The step then; None where it cannot be run.
    global_batch : int
        Samples in it.
    gain_fraction : float or None
        By how much less time a sample takes; below 0: more.
    fits : bool or None
        Whether it fits into every memory; None if one is unknown.
    reason : str
        Why it cannot be run.
    topology, plan
        What `mpsim.simulate` gives the same step of; None where the change is to neither, and where it cannot be run.
    """

    name: str
    detail: str = ""
    step_s: float | None = None
    global_batch: int = 0
    gain_fraction: float | None = None
    fits: bool | None = None
    reason: str = ""
    topology: Topology | None = field(default=None, repr=False, compare=False)
    plan: Plan | None = field(default=None, repr=False, compare=False)

    __repr__ = short_repr
