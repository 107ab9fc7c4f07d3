"""The cases on which predictions are held against real runs, as data: models, plans, links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.topology.model import Topology
from mpsim.topology.spec import parse_topology

__all__ = ["GRID", "GRIDS", "LINKS", "LOOPBACK", "QUICK", "Case", "Wire", "cases_on"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What lies between any two devices, one way.

    Attributes
    ----------
    bandwidth : str
        Such as ``"100Mbit/s"``; ``"inf"`` is that of loopback, which is what it is measured to be.
    latency_ms : float
        Of a whole path.
    """

    bandwidth: str
    latency_ms: float

    @property
    def text(self) -> str:
        """The wire in a word, such as ``100Mbit/s@1ms`` or ``loopback``."""
        if self.bandwidth == "inf":
            return "loopback"
        return f"{self.bandwidth}@{self.latency_ms:g}ms"

    def topology(self, devices: int) -> Topology:
        """Return devices behind one switch: a path is two links, each of half the latency.

        Examples
        --------
        >>> Wire(bandwidth="100Mbit/s", latency_ms=1).topology(2).links[0].latency_s
        0.0005
        """
        return parse_topology(f"switch:{devices},link={self.bandwidth}@{self.latency_ms / 2:g}ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One plan of one model over one kind of link, to be predicted and run.

    Attributes
    ----------
    model : str
        Its trace is ``<model>.cpu.json``.
    plan : Plan
        Its batch is stated.
    wire : Wire
    trials : int
        Steps that are run; odd, so that the median is one of them.
    """

    model: str
    plan: Plan
    wire: Wire
    trials: int = 5

    def __post_init__(self) -> None:
        if self.trials < 1 or self.trials % 2 == 0:
            raise MpsimError(f"case {self.name}: trials is {self.trials}, expected an odd number")

    @property
    def name(self) -> str:
        """The case in a line; no two of a grid are alike."""
        return f"{self.model} | {self.plan.text} batch={self.plan.batch} | {self.wire.text}"


LINKS = {
    wire.text: wire
    for wire in (
        Wire(bandwidth=bandwidth, latency_ms=latency)
        for bandwidth in ("100Mbit/s", "200Mbit/s", "1Gbit/s")
        for latency in (0, 1)
    )
}


LOOPBACK = Wire(bandwidth="inf", latency_ms=0)


def cases_on(fabric: str, cases: Sequence[Case]) -> tuple[Case, ...]:
    """Return the cases as a fabric can have them: over loopback no link is like the one asked for.

    Examples
    --------
    >>> case = Case(model="mlp", plan=Plan(pp=2), wire=LINKS["100Mbit/s@1ms"])
    >>> [one.wire.text for one in cases_on("host", [case, replace(case, wire=LINKS["1Gbit/s@0ms"])])]
    ['loopback']
    """
    if fabric != "host":
        return tuple(cases)
    return tuple(dict.fromkeys(replace(case, wire=LOOPBACK) for case in cases))


def _pipelines(stages: int, parts: int, batch: int) -> tuple[Plan, ...]:
    """Return the naive pipeline, GPipe and 1F1B of one number of stages."""
    return (
        Plan(pp=stages, batch=batch, schedule="naive"),
        Plan(pp=stages, batch=batch, microbatches=parts, schedule="gpipe"),
        Plan(pp=stages, batch=batch, microbatches=parts, schedule="1f1b"),
    )


# All plans of a model run the same batch, cut into micro-batches that its trace has.
_MLP = (
    *_pipelines(2, 4, 8192),
    Plan(dp=2, batch=8192),
    Plan(tp=2, batch=8192),
    *_pipelines(4, 8, 8192),
    Plan(dp=4, batch=8192),
    Plan(tp=4, batch=8192),
    Plan(dp=2, pp=2, batch=8192, microbatches=4, schedule="gpipe"),
    Plan(dp=2, tp=2, batch=8192),
    Plan(pp=2, tp=2, batch=8192, microbatches=4),
)
_LLAMA = (
    *_pipelines(2, 4, 8),
    Plan(dp=2, batch=8),
    Plan(tp=2, batch=8),
    *_pipelines(4, 8, 8),
    Plan(dp=4, batch=8),
    Plan(dp=2, pp=2, batch=8, microbatches=4),
    Plan(dp=2, tp=2, batch=8),
    Plan(pp=2, tp=2, batch=8, microbatches=4, schedule="gpipe"),
)
_RESNET = (
    *_pipelines(2, 4, 4),
    Plan(dp=2, batch=4),
    *_pipelines(4, 4, 4),
    Plan(dp=4, batch=4),
    Plan(dp=2, pp=2, batch=4, microbatches=2),
)

# Models of more bytes run over links on which one step takes some seconds at most.
_FULL = (
    ("mnist-mlp", _MLP, ("100Mbit/s@0ms", "200Mbit/s@1ms", "1Gbit/s@0ms", "1Gbit/s@1ms")),
    ("llama", _LLAMA, ("200Mbit/s@0ms", "1Gbit/s@1ms")),
    ("resnet50", _RESNET, ("1Gbit/s@0ms",)),
    ("resnet50", tuple(plan for plan in _RESNET if plan.dp == 1), ("100Mbit/s@1ms",)),
)

GRID = tuple(
    Case(model=model, plan=plan, wire=LINKS[wire]) for model, plans, wires in _FULL for wire in wires for plan in plans
)
# One of each kind of plan, five on two processes and three on four.
QUICK = tuple(
    Case(model="mnist-mlp", plan=plan, wire=LINKS["200Mbit/s@1ms"])
    for plan in (*(plan for plan in _MLP if plan.ranks == 2), _MLP[6], _MLP[9], _MLP[10])
)
GRIDS = {"full": GRID, "quick": QUICK}
