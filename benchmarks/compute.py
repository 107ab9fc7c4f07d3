"""One measured row sets a device's speed beside its roofline; the others judge: published training steps.

    python benchmarks/compute.py

For each table the roofline's costs of its models are made by hand, kernel by kernel. `mpsim.calibrate_compute` takes
the speed from one row, and every other is predicted at the roofline itself and at that speed: of Megatron-LM from the
smallest model, of the others from each row in turn. Prints the tables of docs/rescaling.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from rescaling import read

from mpsim import Plan, Topology, Workload, calibrate_compute, parse_topology, simulate
from mpsim.lowering.rescaling import roofline_of
from mpsim.topology.reported import catalog_name
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.layers import Cost, Fidelity, Gradient, Layer, Parameter, Samples, Shard, ShardCollective


@dataclass(frozen=True, kw_only=True)
class Model:
    """A decoder, and how it computes."""

    name: str
    layers: int
    hidden: int
    heads: int
    vocab: int
    seq: int
    device: str
    dtype: str
    fused: bool  # softmax with its mask, bias with its activation, dropout with its residual
    recompute: bool
    optimizer: bool


@dataclass(frozen=True, kw_only=True)
class Step:
    """A measured step."""

    name: str
    workload: Workload
    topology: Topology
    plan: Plan
    seconds: float


class Kernels:
    """Adds up rooflines, products and bytes."""

    def __init__(self, model: Model) -> None:
        self.spec: DeviceSpec = roofline_of(model.device)
        self.dtype, self.width = model.dtype, 2 if model.dtype == "float16" else 4
        self.seconds = 0.0

    def product(self, rows: float, inner: float, columns: float, batch: float = 1.0) -> None:
        moved = batch * (rows * inner + inner * columns + rows * columns) * self.width
        self.seconds += self.spec.seconds(2 * batch * rows * inner * columns, moved, self.dtype)

    def passes(self, elements: float, reads_and_writes: float) -> None:
        self.seconds += self.spec.seconds(0, reads_and_writes * elements * self.width, self.dtype)


def block(model: Model, size: int, tp: int) -> float:
    """Return forward of one block on one of `tp` ranks."""
    s, h, a = model.seq, model.hidden, model.heads
    tokens, scores = size * s, size * a * s * s / tp
    k = Kernels(model)
    k.product(tokens, h, 3 * h / tp)
    k.product(s, h / a, s, size * a / tp)
    k.passes(scores, 2 if model.fused else 6)  # softmax; else scale, mask and softmax
    k.passes(scores, 2.5)  # dropout
    k.product(s, s, h / a, size * a / tp)
    k.product(tokens, h / tp, h)
    k.product(tokens, h, 4 * h / tp)
    k.passes(4 * tokens * h / tp, 2 if model.fused else 12)  # GeLU; else its parts
    k.product(tokens, 4 * h / tp, h)
    for _ in range(2):
        k.passes(tokens * h, 2)  # normalisation
        k.passes(tokens * h, 3.5)  # bias, dropout, residual
    return k.seconds


def head(model: Model, size: int, tp: int) -> float:
    """Return forward of the logits and their loss on one of `tp` ranks."""
    k = Kernels(model)
    k.product(size * model.seq, model.hidden, model.vocab / tp)
    k.passes(size * model.seq * model.vocab / tp, 4)
    return k.seconds


def workload(model: Model, size: int, tp: int) -> Workload:
    """Return a model's roofline costs at a micro-batch and a tensor-parallel size."""
    h, wide = model.hidden, 2 if model.dtype == "float16" else 4
    sent = size * model.seq * h * wide
    spec = roofline_of(model.device)

    def layer(name: str, forward_s: float, parameters: int, calls: int, again: bool) -> Layer:
        shards, costs = [], []
        for ranks in {1, tp}:
            count = parameters // ranks
            update_s = (20 * count / spec.memory_bytes_per_s + spec.kernel_floor_s) if model.optimizer else 0.0
            seconds = forward_s if ranks == tp else forward_s * tp
            samples = Samples(
                forward_s=(seconds,), backward_input_s=((2 if again else 1) * seconds,), backward_weight_s=(seconds,),
                optimizer_s=(update_s,),
            )  # fmt: skip
            collectives = [
                ShardCollective(kind="all_reduce", bytes=sent, phase=phase)
                for phase in ["forward"] * calls + ["backward"] * calls * (2 if again else 1)
            ]
            parameter = Parameter(name=f"{name}.weight", shape=(count,), dtype=model.dtype)
            gradient = Gradient(parameter=parameter.name, bytes=count * wide)
            shards.append(Shard(tensor_parallel=ranks, parameters=(parameter,), gradients=(gradient,)))
            costs.append(
                Cost(
                    microbatch=size,
                    tensor_parallel=ranks,
                    samples=samples,
                    fidelity=Fidelity.ANALYTICAL,
                    collectives=tuple(collectives) if ranks > 1 else (),
                )
            )
        return Layer(name=name, shards=tuple(shards), costs=tuple(costs))

    layers = [layer(f"block {i}", block(model, size, tp), 12 * h * h, 2, model.recompute) for i in range(model.layers)]
    layers.append(layer("head", head(model, size, tp), h * model.vocab, 1, again=False))
    return replace(Workload.chain(model.name, layers, activation_bytes=sent, microbatch=size), device=model.device)


@cache
def a100_nodes(count: int) -> Topology:
    return parse_topology(f"dgx_a100:{count}" if count > 1 else "dgx_a100")


def megatron() -> Iterator[Step]:
    """Up to 512 GPUs: what replays in a minute."""
    for row in read("megatron_iterations.csv"):
        r = {name: int(float(value)) for name, value in row.items() if value}
        if r["n_gpus"] > 512:
            continue
        model = Model(
            name=f"{row['params_B']}B", layers=r["layers"], hidden=r["hidden"], heads=r["heads"], vocab=r["vocab"],
            seq=r["seq"], device="A100-SXM4-80GB", dtype="float16", fused=True, recompute=True, optimizer=True,
        )  # fmt: skip
        parts = r["global_batch"] // (r["dp"] * r["micro_batch"])
        plan = Plan(dp=r["dp"], pp=r["pp"], tp=r["tp"], microbatches=parts, batch=r["global_batch"])
        yield Step(name=f"{model.name}, {r['n_gpus']} GPUs", workload=workload(model, r["micro_batch"], r["tp"]),
                   topology=a100_nodes(r["n_gpus"] // 8), plan=plan, seconds=float(row["derived_iter_s"]))  # fmt: skip


def neusight(device: str) -> Iterator[Step]:
    """Models on one GPU of a type, and on four of them."""
    for row in read("neusight_training.csv"):
        if catalog_name(row["device"]) != device:
            continue
        batch = int(row["global_batch"])
        model = Model(
            name=row["model"], layers=int(row["layers"]), hidden=int(row["hidden"]), heads=int(row["heads"]),
            vocab=int(row["vocab"]), seq=int(row["seq"]), device=device, dtype="float32", fused=False, recompute=False,
            optimizer=False,
        )  # fmt: skip
        axes = {"dp4": {"dp": 4}, "tp4": {"tp": 4}, "pp4_1": {"pp": 4}}.get(row["parallel"], {})
        plan = Plan(batch=batch, **axes)  # type: ignore[arg-type]
        link = "nvlink4" if "H100" in device else "nvlink3"
        yield Step(
            name=f"{row['model']}, batch {batch}, {row['parallel']}",
            workload=workload(model, batch // plan.dp, plan.tp),
            topology=parse_topology(f"switch:4,link={link},device={device}"),
            plan=plan,
            seconds=float(row["e2e_ms"]) / 1e3,
        )


def predicted_s(step: Step, speed: float) -> float:
    """Return a step with its devices at a speed beside their roofline."""
    devices = tuple(replace(one, speed=speed, speed_of="roofline") for one in step.topology.devices)
    return simulate(step.workload, replace(step.topology, devices=devices), step.plan, spans=False).step_s


def errors(steps: list[Step], speed: float) -> list[float]:
    """Return how far each prediction lies above what was measured."""
    return [predicted_s(step, speed) / step.seconds - 1 for step in steps]


def judge(steps: list[Step], calibrating: Iterable[int]) -> None:
    """Calibrate on a step, judge on all others; a line for each step that calibrates."""
    print("| calibrated on | speed | the others by the roofline: mean | worst | at that speed: mean | worst |")
    print("|---|---|---|---|---|---|")
    means: tuple[list[float], list[float]] = ([], [])
    for i in calibrating:
        one, others = steps[i], [*steps[:i], *steps[i + 1 :]]
        speed = calibrate_compute(one.workload, one.topology, step_s=one.seconds, plan=one.plan).speed
        cells = []
        for found, mean in zip((errors(others, 1.0), errors(others, speed)), means, strict=True):
            mean.append(statistics.mean(map(abs, found)))
            cells.append(f"{mean[-1]:.1%} | {max(found, key=abs):+.1%}")
        print(f"| {one.name} | {speed:.3f} | {' | '.join(cells)} |")
    print(f"\nMean over the choices: {statistics.mean(means[0]):.1%} and {statistics.mean(means[1]):.1%}.")


def main() -> None:
    """Print a table for each set of rows."""
    print("\n### Megatron-LM on A100\n")
    judge(list(megatron()), [0])
    for device in ("H100-SXM5-80GB", "A100-PCIe-80GB", "A100-SXM4-40GB", "L4", "V100-PCIe-32GB"):
        steps = list(neusight(device))
        print(f"\n### NeuSight on {device}\n")
        judge(steps, range(len(steps)))


if __name__ == "__main__":
    main()
