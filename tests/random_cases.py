"""Random workloads, topologies and plans that fit together."""

import math
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from cases import Times, layer, tensor
from hypothesis import strategies as st

from mpsim.plan.model import Plan
from mpsim.plan.schedules import Operation, Rows
from mpsim.topology.builders import chain, fully_connected, mesh, ring, switch
from mpsim.topology.model import Device, Link, Topology
from mpsim.topology.wire import Wire
from mpsim.workload.model import Workload


class Case(NamedTuple):
    """What `simulate` takes."""

    workload: Workload
    topology: Topology
    plan: Plan


# One of each: to find and check them anew for each draw takes longer than to draw.
integers = cache(st.integers)
booleans = st.booleans()


@cache
def any_of(*values) -> st.SearchStrategy:
    return st.sampled_from(values)


@cache
def few_of(*values) -> st.SearchStrategy:
    return st.lists(st.sampled_from(values), max_size=3, unique=True)


@cache
def pairs_of(*values) -> st.SearchStrategy:
    return st.lists(st.tuples(st.sampled_from(values), st.sampled_from(values)), max_size=4)


@cache
def orders_of(*values) -> st.SearchStrategy:
    return st.permutations(values)


DYADIC = st.integers(0, 64).map(lambda n: n / 16)
ANY = st.one_of(DYADIC, st.floats(0.0, 4.0, allow_subnormal=False))
SPEEDS = st.sampled_from([64.0, 1024.0, 1000.0, 3e3, math.inf])
LATENCIES = st.sampled_from([0.0, 0.25, 0.1])
CALLS = st.lists(st.sampled_from(["all_reduce", "all_gather", "reduce_scatter"]), max_size=2)


@st.composite
def workloads(draw, tensor_parallel: int = 1, seconds=ANY) -> Workload:
    """Layers in a row, some tied, whose outputs are read by any of those behind."""
    n = draw(integers(1, 6))
    names = [f"layer{i}" for i in range(n)]
    layers = []
    for name in names:
        times: Times = (draw(seconds), draw(seconds), draw(seconds))
        held = {f"{name}.{i}": draw(integers(1, 3000)) for i in range(draw(integers(0, 2)))}
        if draw(integers(0, 3)) == 0:
            held["tied"] = 512
        calls = [(draw(any_of("forward", "backward")), kind, draw(integers(1, 2000))) for kind in draw(CALLS)]
        layers.append(
            layer(
                name,
                times,
                parameters=held,
                exchanged=calls,
                optimizer_s=draw(any_of(0.0, 0.5)),
                optimizer_bytes=draw(integers(0, 100)),
                saved_bytes=draw(integers(0, 1000)),
                tensor_parallel=sorted({1, tensor_parallel}),
            )
        )
    tensors = [tensor("", names[:1], 64, name="input", role="input")]
    for i, name in enumerate(names[:-1]):
        readers = draw(few_of(*names[i + 1 :]))
        keeper = draw(any_of("", *names[i:]))
        gradient = draw(booleans)
        tensors.append(tensor(name, readers, draw(integers(1, 500)), needs_gradient=gradient, saved_by=keeper))
    return Workload(name="random", layers=tuple(layers), tensors=tuple(tensors))


@st.composite
def graphs(draw, n: int) -> Topology:
    """Any connected graph of `n` devices and up to two switches, its links unlike in either direction."""
    devices = tuple(Device(name=f"d{i}", speed=draw(any_of(1.0, 1.0, 2.0, 0.5)), memory_bytes=1000) for i in range(n))
    switches = tuple(f"s{i}" for i in range(draw(integers(0, 2))))
    nodes = [device.name for device in devices] + list(switches)
    order = draw(orders_of(*nodes))
    joined = {tuple(sorted((order[draw(integers(0, i - 1))], order[i]))) for i in range(1, len(order))}
    joined |= {(a, b) for a, b in draw(pairs_of(*nodes)) if a < b}
    links = [
        Link(source=a, target=b, bandwidth_bytes_per_s=draw(SPEEDS), latency_s=draw(LATENCIES))
        for pair in sorted(joined)
        for a, b in (pair, pair[::-1])
    ]
    return Topology(name="graph", devices=devices, switches=switches, links=tuple(links))


_graphs = cache(graphs)


@st.composite
def topologies(draw, least: int) -> Topology:
    n = least + draw(integers(0, 2))
    kind = draw(any_of("graph", "graph", "chain", "ring", "full", "switch", "mesh"))
    wire = Wire(draw(SPEEDS), draw(LATENCIES))
    if kind == "graph":
        return draw(_graphs(n))
    if kind == "mesh":
        return mesh(2, (n + 1) // 2, link=wire)
    return {"chain": chain, "ring": ring, "full": fully_connected, "switch": switch}[kind](n, link=wire)


def interleaved(seed: list[int]):
    """Return a schedule that takes forwards and backwards in an order that `seed` picks, the same on every stage.

    The last stage decides: it may run what it has received, and every other stage follows its order, so that the
    schedule can always be run.
    """

    def anyhow(stages: int, microbatches: int) -> Rows:
        rows: Rows = []
        for stage in range(stages):
            forward, backward, row = 0, 0, []
            # Each stage has at least as many forwards ahead as the next one.
            ahead = 1 + seed[0] % 3 + (stages - 1 - stage)
            while backward < microbatches:
                if forward < microbatches and forward - backward < ahead:
                    row.append(Operation(stage, "F", forward))
                    forward += 1
                elif seed[backward % len(seed)] % 2:
                    row.append(Operation(stage, "B", backward))
                    backward += 1
                else:
                    row += [Operation(stage, "I", backward), Operation(stage, "W", backward)]
                    backward += 1
            rows.append(row)
        return rows

    return anyhow


_workloads, _topologies = cache(workloads), cache(topologies)
SCHEDULES = st.one_of(
    st.sampled_from(["1f1b", "gpipe", "naive"]),
    st.lists(st.integers(0, 5), min_size=1, max_size=4).map(interleaved),
)


@st.composite
def cases(draw, most: int = 8, seconds=ANY) -> Case:
    """A workload, a plan that it can be split by, and a topology with enough devices."""
    tp = draw(any_of(1, 1, 2, 3))
    workload = draw(_workloads(tp, seconds))
    pp = draw(integers(1, min(len(workload.layers), most // tp)))
    dp = draw(integers(1, most // (tp * pp)))
    topology = draw(_topologies(dp * pp * tp))
    cuts = draw(orders_of(*range(1, len(workload.layers))))
    placed = draw(orders_of(*range(len(topology.devices))))
    schedule = draw(SCHEDULES)
    plan = Plan(
        dp=dp,
        pp=pp,
        tp=tp,
        microbatches=draw(integers(1, 4)),
        schedule=schedule,
        boundaries=None if draw(booleans) else tuple(sorted(cuts[: pp - 1])),
        first_bucket_bytes=draw(any_of(1, 600, 2**20)),
        bucket_bytes=draw(any_of(1, 1000, 2**20)),
        algorithm=draw(any_of("ring", "ring", "direct")),
        devices=tuple(placed[: dp * pp * tp]) if draw(booleans) else (),
        runtime=draw(any_of("ideal", "ideal", "blocking")),
    )
    return Case(workload, topology, plan)


def ascending(values: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in pairwise(values))
