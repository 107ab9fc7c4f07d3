"""Hybrid plans of Megatron-DeepSpeed on nodes of several GPUs, from measured layers and links (Strati et al., 2025).

Layer times have the tensor-parallel exchanges inside a node in them, so a node's ranks, which all do the same, are
folded into one device with one network card of its own. DeepSpeed cuts what goes to the next stage over the ranks of a
node and gathers it there; it reduces gradients at the end, in one bucket.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.simulation.run import simulate
from mpsim.topology.model import Device, Link, Topology
from mpsim.validate.published.model import Adapter, Inputs, Outcome, Predictor
from mpsim.validate.published.table import Row, Table
from mpsim.workload.layers import Cost, Gradient, Layer, Parameter, Samples, Shard
from mpsim.workload.model import Workload
from mpsim.workload.tensors import Tensor

__all__ = ["SAILOR"]

_FLOAT = 4
# Beside parameter, gradient and Adam's two moments, DeepSpeed's engine keeps a flat copy of the gradients that it
# reduces and one of the parameters (the first is the replicas' bucket, where there are some); and a process holds this
# before it allocates anything: the CUDA context and Megatron's fused kernels. Both are what the authors' own simulator
# says of the platform (sailor/Planner/simulations/runtime_simulator.py, get_memory_footprint_on_gpu), not read off
# these rows.
_COPIES = 2
_PROCESS_BYTES = {"GH-96": 5_060_000_000}
_OTHER_PROCESS_BYTES = 3_000_000_000
_ONE_BUCKET = 2**40


class _Sizes(NamedTuple):
    """Floats of a layer on one rank, the activations at micro-batch 1."""

    parameters: int
    output: int
    kept: int


class _Times(NamedTuple):
    forward_s: float
    backward_s: float
    update_s: float


@dataclass(frozen=True, slots=True)
class _Fits:
    """Measured send bandwidths: bw[GB/s] = c2·x² + c1·x + c0, x = log2(MB)."""

    rows: Mapping[tuple[str, str, int], tuple[float, float, float]]

    def bytes_per_s(self, inside: bool, gpu: str, senders: int, size: float) -> float:
        """Return what one of so many GPUs of a node that send at once reaches with messages of that size."""
        scope = "intra-node" if inside else "network_coeffs_all_homo:inter"
        if (scope, gpu, senders) not in self.rows:
            raise MpsimError(f"no bandwidth was measured of {senders} {gpu} that send {scope.split(':')[-1]}")
        c2, c1, c0 = self.rows[scope, gpu, senders]
        x = math.log2(size / 1e6)
        rate = c2 * x * x + c1 * x + c0
        if not rate > 0:
            raise MpsimError(f"the fit of what {gpu} send has no bandwidth at {size:.0f} bytes")
        return 1e9 * rate / (1 if inside else senders)


class _Job(NamedTuple):
    """What a row says was run."""

    model: str
    gpus: Sequence[str]  # of each node, stage by stage
    microbatch: int
    microbatches: int
    dp: int
    tp: int
    stages: Sequence[range]


def _open(table: Table, inputs: Inputs) -> Predictor:
    times: dict[tuple[str, str, int, int], dict[int, _Times]] = {}
    for row in inputs("sailor_layer_profiles").rows:
        key = (row.text("model"), row.text("gpu"), row.count("micro_batch"), row.count("tp"))
        found = _Times(*(row.real(name) for name in ("fwd_s", "bwd_s", "update_s")))
        times.setdefault(key, {})[int(row.real("layer"))] = found
    sizes: dict[tuple[str, int], dict[int, _Sizes]] = {}
    for row in inputs("sailor_layer_sizes").rows:
        one = _Sizes(*(round(row.number(name)) for name in ("params_floats", "act_output_floats", "act_mem_floats")))
        sizes.setdefault((row.text("model"), row.count("tp")), {})[int(row.real("layer"))] = one
    fits = _Fits(
        {
            (row.text("scope"), row.text("gpu"), row.count("n_gpus")): _coefficients(row)
            for row in inputs("sailor_network_fits").rows
        }
    )

    def predict(row: Row) -> Iterator[Outcome]:
        job = _job(row)
        if (job.model, job.tp) not in sizes:
            raise MpsimError(f"no layer sizes of {job.model} at tp {job.tp}")
        by_type = {
            gpu: _workload(job, gpu, _looked_up(times, job, gpu), sizes[job.model, job.tp], fits)
            for gpu in dict.fromkeys(job.gpus)
        }
        found = simulate(
            by_type[job.gpus[0]], _cluster(job, sizes[job.model, job.tp], fits), _plan(job), by_type=by_type,
            spans=False,
        )  # fmt: skip
        yield Outcome(case=_case(row), measured=row.number("real_iter_s"), predicted=found.step_s)
        if row.text("max_mem_bytes"):
            peak = max(
                use.memory.peak_bytes + _PROCESS_BYTES.get(use.type, _OTHER_PROCESS_BYTES) for use in found.devices
            )
            yield Outcome(
                case=_case(row), what="memory", unit="bytes", measured=row.number("max_mem_bytes"), predicted=peak
            )

    return predict


def _coefficients(row: Row) -> tuple[float, float, float]:
    c2, c1, c0 = (row.real(name) for name in ("c2", "c1", "c0"))
    return c2, c1, c0


def _job(row: Row) -> _Job:
    dp, pp, tp, size = (row.count(name) for name in ("dp", "pp", "tp", "micro_batch"))
    stages = []
    for text in row.text("layers_per_stage").split("|"):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
        if match is None:
            raise MpsimError(f"{row.where}: layers {text!r} of a stage, expected FIRST-LAST")
        stages.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    gpus = []
    for text in re.split(r"[|;]", row.text("gpus_per_stage")):
        match = re.fullmatch(r"\d+x(.+)\(tp(\d+)\)", text.strip())
        if match is None or int(match[2]) != tp:
            raise MpsimError(f"{row.where}: {text!r} of a stage, expected nodes of one size, tp {tp}")
        gpus.append(match[1])
    microbatches, rest = divmod(row.count("global_batch"), size * dp)
    if rest or len(stages) != pp or len(gpus) != dp * pp:
        raise MpsimError(
            f"{row.where}: {len(stages)} stages on {len(gpus)} nodes, expected pp {pp} on dp {dp} × pp {pp}"
        )
    return _Job(row.text("model"), gpus, size, microbatches, dp, tp, stages)


def _looked_up(
    times: Mapping[tuple[str, str, int, int], dict[int, _Times]], job: _Job, gpu: str
) -> Mapping[int, _Times]:
    key = (job.model, gpu, job.microbatch, job.tp)
    if key not in times:
        raise MpsimError(f"{job.model} was not profiled on {gpu} at micro-batch {job.microbatch} and tp {job.tp}")
    return times[key]


def _workload(job: _Job, gpu: str, times: Mapping[int, _Times], sizes: Mapping[int, _Sizes], fits: _Fits) -> Workload:
    """Return the model on one node: a device that does what each of the node's ranks does."""
    numbers = [layer for stage in job.stages for layer in stage]
    if missing := [i for i in numbers if i not in times or i not in sizes]:
        raise MpsimError(f"{job.model} has no layer {missing[0]}: it has {len(times)}")
    if numbers != sorted(sizes):
        raise MpsimError(f"the stages do not have the {len(sizes)} layers of {job.model} one after another")
    firsts = {stage[0] for stage in job.stages[1:]}
    lasts = {stage[-1] for stage in job.stages[:-1]}
    layers = [
        _layer(
            job, i, times[i], sizes[i],
            _gathering_s(job, gpu, sizes[i - 1], fits) if i in firsts else 0.0,
            _gathering_s(job, gpu, sizes[i], fits) if i in lasts else 0.0,
            head=i == numbers[-1],
        )
        for i in numbers
    ]  # fmt: skip
    tensors = [
        Tensor(
            name=f"{before.name}.output", producer=before.name, consumers=(behind.name,), dtype="float32",
            shape=(job.microbatch, sizes[i].output // job.tp), saved_by=behind.name,
        )
        for i, before, behind in zip(numbers, layers, layers[1:], strict=False)
    ]  # fmt: skip
    return Workload(name=job.model, layers=tuple(layers), tensors=tuple(tensors), microbatch=job.microbatch, device=gpu)


def _gathering_s(job: _Job, gpu: str, sizes: _Sizes, fits: _Fits) -> float:
    """Return what a node takes to gather a tensor of which each rank has received its part, around a ring."""
    if job.tp == 1:
        return 0.0
    part = _FLOAT * job.microbatch * sizes.output / job.tp
    return (job.tp - 1) * part / fits.bytes_per_s(True, gpu, job.tp, part)


def _layer(
    job: _Job, number: int, times: _Times, sizes: _Sizes, before_s: float, behind_s: float, *, head: bool
) -> Layer:
    name, size = f"layer{number}", _FLOAT * sizes.parameters
    samples = Samples(
        forward_s=(times.forward_s + before_s,),
        backward_input_s=(times.backward_s + behind_s,),
        backward_weight_s=(0.0,),
        optimizer_s=(times.update_s / len(next(stage for stage in job.stages if number in stage)),),
    )
    shard = Shard(
        parameters=(Parameter(name=name, shape=(sizes.parameters,)),),
        gradients=(Gradient(parameter=name, bytes=size),),
        optimizer_bytes=2 * size,
        buffer_bytes=(_COPIES - (job.dp > 1)) * size,
    )
    cost = Cost(
        microbatch=job.microbatch,
        samples=samples,
        saved_bytes=_FLOAT * job.microbatch * sizes.kept,
        # The gradient of the logits.
        backward_transient_bytes=_FLOAT * job.microbatch * sizes.output if head else 0,
    )
    return Layer(name=name, shards=(shard,), costs=(cost,))


def _cluster(job: _Job, sizes: Mapping[int, _Sizes], fits: _Fits) -> Topology:
    """Return a device for each node, behind the card that one rank of it has.

    Nodes of one type reach each other over a network of their own where there are several types, and others over what
    the slowest of them has.
    """
    devices = tuple(Device(name=f"n{i}", type=gpu) for i, gpu in enumerate(job.gpus))
    if len(devices) == 1:
        return Topology(name="cluster", devices=devices)
    rates = {gpu: fits.bytes_per_s(False, gpu, job.tp, _message_bytes(job, sizes)) for gpu in job.gpus}
    common = rates[job.gpus[0]] if len(rates) == 1 else min(rates.values())
    links = [link for one in devices for link in _both(one.name, "network", common)]
    if len(rates) > 1:
        pairs = [(a, b) for a, b in combinations(devices, 2) if a.type == b.type]
        links += [link for a, b in pairs for link in _both(a.name, b.name, rates[a.type])]
    return Topology(name="cluster", devices=devices, switches=("network",), links=tuple(links))


def _message_bytes(job: _Job, sizes: Mapping[int, _Sizes]) -> float:
    """Return the size at which links are taken: of what goes between stages, else of a part of the gradients."""
    if len(job.stages) > 1:
        return _FLOAT * job.microbatch * sizes[job.stages[0][-1]].output / job.tp
    return _FLOAT * sum(sizes[i].parameters for i in job.stages[0]) / job.dp


def _both(one: str, other: str, rate: float) -> list[Link]:
    ends = ((one, other), (other, one))
    return [Link(source=source, target=target, bandwidth_bytes_per_s=rate) for source, target in ends]


def _plan(job: _Job) -> Plan:
    """Return the plan; nodes are named stage by stage, ranks go replica by replica."""
    pp = len(job.stages)
    return Plan(
        dp=job.dp, pp=pp, batch=job.dp * job.microbatches * job.microbatch, microbatches=job.microbatches,
        boundaries=tuple(stage[0] for stage in job.stages[1:]) if pp > 1 else None, runtime="deepspeed",
        bucket_bytes=_ONE_BUCKET, first_bucket_bytes=_ONE_BUCKET,
        devices=tuple(stage * job.dp + replica for replica in range(job.dp) for stage in range(pp)),
    )  # fmt: skip


def _case(row: Row) -> str:
    return row.text("file").rpartition("/")[2].removesuffix(".json") or row.where


SAILOR = Adapter(
    file="sailor_measured",
    about="Measured layers, sizes and links of GH200 nodes, replayed under dp × pp × tp by DeepSpeed's 1F1B.",
    columns=("model", "global_batch", "micro_batch", "dp", "pp", "tp", "layers_per_stage", "gpus_per_stage",
             "real_iter_s"),
    open=_open,
    case=_case,
    goals={"time": 0.06, "memory": 0.10},
)  # fmt: skip
