"""Plans of a published mixed cluster, its own and those of a sweep: ``python benchmarks/mixed_cluster.py [MEASURED]``.

Nodes of eight RTX 3090, RTX 2080 and Titan RTX, on which Sailor's authors (SOSP 2025) trained OPT-350M with DeepSpeed's
1F1B, tp 8 inside each node. Layer times and link speeds are what they measured of layers and links, in
``data/sailor_mixed.csv`` and below; nothing is fitted to a whole step. DeepSpeed sends each tensor-parallel rank's part
of what crosses a cut (`is_pipe_partitioned` in deepspeed/runtime/pipe/engine.py), waits for its sends (so the runtime
is ``blocking``) and reduces gradients at the end, in one bucket.

MEASURED is a CSV file of the steps that were measured there, with the columns nodes,dp,pp,stages,place,seconds: stages
as the first layers of all but the first, place as the node of each stage, replica by replica, separated by blanks. They
are in the files of sailor/Planner/simulations/validation/mit in eth-easl/sailor @ cf2c8e3cc5.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from mpsim import Device, Link, Plan, Topology, Workload, simulate, sweep
from mpsim.workload.layers import Cost, Gradient, Layer, Parameter, Samples, Shard
from mpsim.workload.tensors import Tensor, TensorShard

DATA = Path(__file__).parent / "data" / "sailor_mixed.csv"
FLOAT, TP, MICROBATCH = 4, 8, 2
# Bytes a second, the most that was measured (intra_node_bandwidths.json and network_coeffs_all_homo.json):
# within a node of eight; between nodes of one type; to the RTX 3090's and, taken alike, to another type: Ethernet.
INSIDE = {"RTX-3090": 5.327e9, "RTX-2080": 24.55e9, "Titan-RTX": 24.30e9}
SAME, ETHERNET = 2.8577e9, 0.115e9
MEMORY = {"RTX-3090": 24, "RTX-2080": 11, "Titan-RTX": 24}
# Nodes of each cluster, and samples in a step.
CLUSTERS = {
    3: (("RTX-3090", "RTX-2080", "Titan-RTX"), 144),
    4: (("RTX-3090", "RTX-2080", "Titan-RTX", "RTX-2080"), 256),
    6: (("RTX-3090", "RTX-2080", "RTX-2080", "Titan-RTX", "RTX-2080", "Titan-RTX"), 288),
}


def workload(gpu: str) -> Workload:
    """Return the model as measured on eight GPUs of a node."""
    lines = [line for line in DATA.read_text().splitlines() if not line.startswith("#")]
    rows = [row for row in csv.DictReader(lines) if row["gpu"] == gpu]
    layers, tensors = [], []
    for row in rows:
        name, count = f"layer{row['layer']}", int(row["parameter_floats"])
        samples = Samples(
            forward_s=(float(row["forward_s"]),),
            backward_input_s=(float(row["backward_s"]),),
            backward_weight_s=(0.0,),
            # Of the whole stage, whichever its layers: one layer's part.
            optimizer_s=(float(row["update_s"]) / len(rows),),
        )
        shard = Shard(
            tensor_parallel=TP,
            parameters=(Parameter(name=name, shape=(count,), dtype="float32"),),
            gradients=(Gradient(parameter=name, bytes=FLOAT * count),),
            optimizer_bytes=2 * FLOAT * count,
        )
        kept = FLOAT * MICROBATCH * int(row["kept_floats"])
        cost = Cost(microbatch=MICROBATCH, tensor_parallel=TP, samples=samples, saved_bytes=kept)
        layers.append(Layer(name=name, shards=(shard,), costs=(cost,)))
    for row, before, behind in zip(rows, layers, layers[1:], strict=False):
        floats = int(row["output_floats"])
        part = TensorShard(tensor_parallel=TP, shape=(MICROBATCH, floats // TP))
        tensors.append(
            Tensor(
                name=f"{before.name}.output", producer=before.name, consumers=(behind.name,), dtype="float32",
                shape=(MICROBATCH, floats), shards=(part,),
            )
        )  # fmt: skip
    return Workload(name="OPT-350M", layers=tuple(layers), tensors=tuple(tensors), microbatch=MICROBATCH, device=gpu)


def cluster(nodes: tuple[str, ...]) -> Topology:
    """Return the nodes, each with a port of its own on gigabit Ethernet, and faster links between those of one type."""
    devices, links, switches = [], [], ["ethernet"]
    for i, gpu in enumerate(nodes):
        switches.append(f"node{i}")
        links += _both(f"node{i}", "ethernet", ETHERNET)
        for k in range(TP):
            devices.append(Device(name=f"n{i}.{k}", type=gpu, memory_bytes=MEMORY[gpu] * 2**30))
            links += _both(f"n{i}.{k}", f"node{i}", INSIDE[gpu])
        links += [wire for j in range(i) if nodes[j] == gpu for wire in _both(f"node{i}", f"node{j}", SAME)]
    return Topology(name="-".join(nodes), devices=tuple(devices), switches=tuple(switches), links=tuple(links))


def _both(a: str, b: str, rate: float) -> list[Link]:
    return [Link(source=x, target=y, bandwidth_bytes_per_s=rate, latency_s=30e-6) for x, y in ((a, b), (b, a))]


def published(file: Path, by_type: dict[str, Workload]) -> None:
    """Print the prediction of each measured plan beside its step."""
    errors = []
    for row in csv.DictReader(file.read_text().splitlines()):
        nodes, batch = CLUSTERS[int(row["nodes"])]
        dp, pp, real_s = int(row["dp"]), int(row["pp"]), float(row["seconds"])
        plan = Plan(
            dp=dp, pp=pp, tp=TP, batch=batch, microbatches=batch // dp // MICROBATCH, runtime="blocking",
            boundaries=tuple(map(int, row["stages"].split())), bucket_bytes=2**31, first_bucket_bytes=2**31,
            devices=tuple(TP * int(node) + k for node in row["place"].split() for k in range(TP)),
        )  # fmt: skip
        step_s = simulate(by_type["RTX-3090"], cluster(nodes), plan, by_type=by_type, spans=False).step_s
        errors.append(step_s / real_s - 1)
        print(f"  {len(nodes)} nodes, dp={dp} pp={pp}: {step_s:5.1f} s, measured {real_s:5.1f} s ({errors[-1]:+.1%})")
    print(f"  mean error {sum(map(abs, errors)) / len(errors):.1%}")


def main() -> None:
    """Predict the plans that were measured, then sweep each cluster and print its fastest plans."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", nargs="?", type=Path)
    by_type = {gpu: workload(gpu) for gpu in INSIDE}
    if file := parser.parse_args().measured:
        print("Plans that were measured, with their own stages and places")
        published(file, by_type)
    for nodes, batch in CLUSTERS.values():
        found = sweep(
            by_type["RTX-3090"], cluster(nodes), batch=batch, tensor=[TP], schedules=["1f1b"], by_type=by_type,
            bucket_bytes=2**31, runtime="blocking",
        )  # fmt: skip
        print(f"\n{len(nodes)} nodes ({', '.join(nodes)}), batch {batch}: the fastest of the sweep")
        for row in found.ranked[:5]:
            print(f"  {row['step_s']:5.1f} s  {_short(row['plan'], nodes)}")


def _short(plan: str, nodes: tuple[str, ...]) -> str:
    """Write which node each group of eight ranks stands on."""
    words = plan.split(" place=")
    places = [int(device) for device in words[1].split()[0].split(",")] if len(words) > 1 else []
    return words[0] + (" on " + " ".join(nodes[first // TP] for first in places[::TP]) if places else " in order")


if __name__ == "__main__":
    main()
