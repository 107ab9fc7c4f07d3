"""Passes: each takes the instructions of a pipeline rank and returns them with one thing more said, in this order.

To add what a rank does, write a function ``(instructions, lowering) -> instructions`` in a file of its own and put it
in its place here.
"""

from __future__ import annotations

from collections.abc import Callable

from mpsim.lowering.instructions import Instructions
from mpsim.lowering.model import Lowering
from mpsim.lowering.passes.awaited import awaited
from mpsim.lowering.passes.buckets import buckets
from mpsim.lowering.passes.gather import gather
from mpsim.lowering.passes.hold import hold
from mpsim.lowering.passes.messages import messages
from mpsim.lowering.passes.offload import offload
from mpsim.lowering.passes.overlap import overlap
from mpsim.lowering.passes.parts import parts
from mpsim.lowering.passes.post import post
from mpsim.lowering.passes.recompute import recompute
from mpsim.lowering.passes.segment import segment
from mpsim.lowering.passes.shard import shard
from mpsim.lowering.passes.start import start
from mpsim.lowering.passes.tied import tied

__all__ = ["PASSES", "Pass", "instructions_of"]

Pass = Callable[[Instructions, Lowering], Instructions]

PASSES: tuple[Pass, ...] = (
    messages,  # what crosses from one pipeline rank to another
    post,  # when it is posted and waited for, as the runtime does
    recompute,  # forwards of what was not kept, again before their backward
    segment,  # computations cut where layers exchange and buckets are full
    shard,  # what ranks exchange that share layers
    overlap,  # two operations in one cell, one computing while the other exchanges
    gather,  # parameters of replicas that shard them, ahead of what uses them; gradients scattered
    offload,  # what is kept, to the host and back
    buckets,  # gradients of replicas, as backward makes them ready
    awaited,  # the gradients of replicas, before what they update
    tied,  # gradients of what several stages hold
    parts,  # gradients of which ranks that share a sequence have parts
    hold,  # what is kept, and for how long
)


def instructions_of(lowering: Lowering, rank: int, *, memory: bool = True) -> Instructions:
    """Return what a pipeline rank of a plan does, whichever replica and tensor-parallel rank it is of.

    Without `memory` what it keeps is left out, of which no time hangs.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
    >>> work = Workload.chain("two", layers, activation_bytes=64)
    >>> lowering = lower(work, parse_topology("chain:2,link=1GB/s@2us"), Plan(pp=2))
    >>> print(" · ".join(map(str, instructions_of(lowering, 0))))
    0F0[0:1] · send 0F0>1 · wait · hold transients · 0B0[0:1] · drop · update[0:1]
    """
    found = start(lowering, rank)
    for one in PASSES if memory else PASSES[:-1]:
        found = one(found, lowering)
    return found
