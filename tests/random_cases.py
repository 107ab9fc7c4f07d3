"""Random workloads, topologies and plans that fit together."""

import math
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


DYADIC = st.integers(0, 64).map(lambda n: n / 16)
ANY = st.one_of(DYADIC, st.floats(0.0, 4.0, allow_subnormal=False))
SPEEDS = st.sampled_from([64.0, 1024.0, 1000.0, 3e3, math.inf])
LATENCIES = st.sampled_from([0.0, 0.25, 0.1])


@st.composite
def workloads(draw, tensor_parallel: int = 1, seconds=ANY) -> Workload:
    """Layers in a row, some tied, whose outputs are read by any of those behind."""
    n = draw(st.integers(1, 6))
    names = [f"layer{i}" for i in range(n)]
    layers = []
    for name in names:
        times: Times = (draw(seconds), draw(seconds), draw(seconds))
        held = {f"{name}.{i}": draw(st.integers(1, 3000)) for i in range(draw(st.integers(0, 2)))}
        if draw(st.integers(0, 3)) == 0:
            held["tied"] = 512
        calls = [
            (draw(st.sampled_from(["forward", "backward"])), kind, draw(st.integers(1, 2000)))
            for kind in draw(st.lists(st.sampled_from(["all_reduce", "all_gather", "reduce_scatter"]), max_size=2))
        ]
        layers.append(
            layer(
                name,
                times,
                parameters=held,
                exchanged=calls,
                optimizer_s=draw(st.sampled_from([0.0, 0.5])),
                optimizer_bytes=draw(st.integers(0, 100)),
                saved_bytes=draw(st.integers(0, 1000)),
                tensor_parallel=sorted({1, tensor_parallel}),
            )
        )
    tensors = [tensor("", names[:1], 64, name="input", role="input")]
    for i, name in enumerate(names[:-1]):
        readers = draw(st.lists(st.sampled_from(names[i + 1 :]), max_size=3, unique=True))
        keeper = draw(st.sampled_from(["", *names[i:]]))
        gradient = draw(st.booleans())
        tensors.append(tensor(name, readers, draw(st.integers(1, 500)), needs_gradient=gradient, saved_by=keeper))
    return Workload(name="random", layers=tuple(layers), tensors=tuple(tensors))


@st.composite
def graphs(draw, n: int) -> Topology:
    """Any connected graph of `n` devices and up to two switches, its links unlike in either direction."""
    devices = tuple(
        Device(name=f"d{i}", speed=draw(st.sampled_from([1.0, 1.0, 2.0, 0.5])), memory_bytes=1000) for i in range(n)
    )
    switches = tuple(f"s{i}" for i in range(draw(st.integers(0, 2))))
    nodes = [device.name for device in devices] + list(switches)
    order = draw(st.permutations(nodes))
    joined = {tuple(sorted((order[draw(st.integers(0, i - 1))], order[i]))) for i in range(1, len(order))}
    more = st.lists(st.tuples(st.sampled_from(nodes), st.sampled_from(nodes)), max_size=4)
    joined |= {(a, b) for a, b in draw(more) if a < b}
    links = [
        Link(source=a, target=b, bandwidth_bytes_per_s=draw(SPEEDS), latency_s=draw(LATENCIES))
        for pair in sorted(joined)
        for a, b in (pair, pair[::-1])
    ]
    return Topology(name="graph", devices=devices, switches=switches, links=tuple(links))


@st.composite
def topologies(draw, least: int) -> Topology:
    n = least + draw(st.integers(0, 2))
    kind = draw(st.sampled_from(["graph", "graph", "chain", "ring", "full", "switch", "mesh"]))
    wire = Wire(draw(SPEEDS), draw(LATENCIES))
    if kind == "graph":
        return draw(graphs(n))
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


@st.composite
def cases(draw, most: int = 8, seconds=ANY) -> Case:
    """A workload, a plan that it can be split by, and a topology with enough devices."""
    tp = draw(st.sampled_from([1, 1, 2, 3]))
    workload = draw(workloads(tp, seconds))
    pp = draw(st.integers(1, min(len(workload.layers), most // tp)))
    dp = draw(st.integers(1, most // (tp * pp)))
    topology = draw(topologies(dp * pp * tp))
    cuts = draw(st.permutations(range(1, len(workload.layers))))
    placed = draw(st.permutations(range(len(topology.devices))))
    schedule = draw(
        st.one_of(
            st.sampled_from(["1f1b", "gpipe", "naive"]),
            st.lists(st.integers(0, 5), min_size=1, max_size=4).map(interleaved),
        )
    )
    plan = Plan(
        dp=dp,
        pp=pp,
        tp=tp,
        microbatches=draw(st.integers(1, 4)),
        schedule=schedule,
        boundaries=None if draw(st.booleans()) else tuple(sorted(cuts[: pp - 1])),
        first_bucket_bytes=draw(st.sampled_from([1, 600, 2**20])),
        bucket_bytes=draw(st.sampled_from([1, 1000, 2**20])),
        algorithm=draw(st.sampled_from(["ring", "ring", "direct"])),
        devices=tuple(placed[: dp * pp * tp]) if draw(st.booleans()) else (),
        runtime=draw(st.sampled_from(["ideal", "ideal", "blocking"])),
    )
    return Case(workload, topology, plan)


def ascending(values: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in pairwise(values))
