"""Runtimes: how what executes a plan treats its messages.

Each choice is taken from the runtime's source, or from a micro-benchmark of its own; none is fitted to the steps that
it is judged by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpsim.errors import unknown
from mpsim.plan.schedules import Operation, gpipe, naive, one_f_one_b

__all__ = ["RUNTIMES", "Runtime", "posting_of", "resolve_runtime"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Choices of a lowering that follow from the runtime, not from the plan.

    Attributes
    ----------
    name : str
        As named in every result.
    posting : str
        When messages are posted and waited for: ``eager``, ``blocking``, ``early``, ``deferred``, ``at_turn``,
        ``fused``, ``turn_about``, or ``torch``, as its class for the rows does (`mpsim.lowering.passes.post`).
    two_ended : bool
        A message leaves once both of its ends are posted.
    notices : bool
        The receiver says that it is ready by a notice, which takes a latency and stands in the stream of bytes that
        its own messages to that peer go through.
    one_stream_a_pair : bool
        The messages of a pair of ranks, both ways, go one at a time.
    collectives_in_flight : int
        How many collectives of one group move at once; 0: one, in the program's order.
    gloo_collectives : bool
        All-reduces, all-gathers and reduce-scatters as gloo's source has them, whatever the plan's algorithm.
    reduce_bytes_per_s : float
        Received bytes that a rank adds to its own each second, in gloo's collectives.
    launch_s : float
        What launching a collective or a message takes a rank's host, where the trace has a host.
    apart_s : float
        How far apart two ranks come to a collective.
    units_at_once : bool
        What FSDP gathers and reduces is awaited where it is posted.
    host_waits : bool
        Whoever waits for a message or a collective, or hands one over, is the host; otherwise it is the stream.
    """

    name: str
    posting: str = "eager"
    two_ended: bool = False
    notices: bool = False
    one_stream_a_pair: bool = False
    collectives_in_flight: int = 0
    gloo_collectives: bool = False
    reduce_bytes_per_s: float = math.inf
    launch_s: float = 0.0
    apart_s: float = 0.0
    units_at_once: bool = False
    host_waits: bool = False


RUNTIMES = {
    # Sends and receives run beside compute; messages between two ranks in one direction stay in order.
    "ideal": Runtime(name="ideal"),
    # As in a runtime without asynchronous sends, and in ASTRA-sim's pipelines.
    "blocking": Runtime(name="blocking", posting="blocking"),
    # torch.distributed over TCP. Notices: gloo/transport/tcp/pair.cc, sendNotifyRecvReady. Two worker threads a
    # process group: ProcessGroupGloo's Options::threads (torch/csrc/distributed/c10d/ProcessGroupGloo.hpp). FSDP's own
    # streams order its collectives on a GPU; without them, they are synchronous
    # (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py, async_op). Two processes that sleep equally long come
    # to a collective 0.3 to 4 ms apart, as was seen (benchmarks/real_fsdp.py).
    "torch-gloo": Runtime(
        name="torch-gloo",
        posting="torch",
        two_ended=True,
        notices=True,
        collectives_in_flight=2,
        gloo_collectives=True,
        apart_s=1e-3,
        units_at_once=True,
        host_waits=True,
    ),
    # torch.distributed over NCCL. A send and its receive are kernels that wait for each other on the communicator of
    # their pair, one stream for both directions, and collectives of a group follow one another
    # (torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp, pointToPoint and collective). A rank's host spends 89 us in a
    # call of all_reduce, as https://github.com/pytorch/pytorch/issues/138773 measured. Not yet held against a run.
    "torch-nccl": Runtime(
        name="torch-nccl",
        posting="torch",
        two_ended=True,
        one_stream_a_pair=True,
        collectives_in_flight=1,
        launch_s=89e-6,
    ),
    # DeepSpeed's pipeline engine: TrainSchedule.steps (deepspeed/runtime/pipe/schedule.py) puts the exchange with a
    # neighbour before each computation, and p2p.send and recv (deepspeed/runtime/pipe/p2p.py) are waited for.
    "deepspeed": Runtime(
        name="deepspeed", posting="turn_about", two_ended=True, one_stream_a_pair=True, collectives_in_flight=1
    ),
}


def resolve_runtime(name: str) -> Runtime:
    """Return the runtime of that name.

    Examples
    --------
    >>> resolve_runtime("ideal").posting
    'eager'
    """
    if name not in RUNTIMES:
        raise unknown("runtime", name, RUNTIMES)
    return RUNTIMES[name]


def posting_of(runtime: Runtime, rows: Sequence[Sequence[Operation]]) -> str:
    """Return when a runtime posts the messages of these rows.

    ``torch`` stands for the classes of ``torch.distributed.pipelining`` that run them: ``fused`` for the rows of 1F1B,
    ``at_turn`` for those of GPipe and of one micro-batch after another, ``early`` for all others. The rows count,
    not the name by which they were asked for.

    Examples
    --------
    >>> gloo = RUNTIMES["torch-gloo"]
    >>> posting_of(gloo, one_f_one_b(2, 4)), posting_of(gloo, gpipe(2, 4)), posting_of(RUNTIMES["ideal"], gpipe(2, 4))
    ('fused', 'at_turn', 'eager')
    """
    if runtime.posting != "torch":
        return runtime.posting
    found = [list(row) for row in rows]
    ranks, microbatches = len(found), sum(operation.kind == "F" for operation in found[0])
    if found in (gpipe(ranks, microbatches), naive(ranks, microbatches)):
        return "at_turn"
    return "fused" if found == one_f_one_b(ranks, microbatches) else "early"
