"""Measured times for layers of a workload that a trace has of the same kind and shape; the others stay as costed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any, TypeAlias

from mpsim.errors import MpsimError
from mpsim.scaling import plain_name
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.layers import TIMES, Cost, Fidelity, Layer
from mpsim.workload.model import Workload
from mpsim.workload.split import Split

__all__ = ["with_measured_blocks"]

_Shape: TypeAlias = tuple[Any, ...]


def with_measured_blocks(workload: Workload, measured: Workload, device: DeviceSpec) -> Workload:
    """Return a workload whose layers have the times of alike layers of a trace, at the points that this has of them.

    Layers are alike where they are of one class, hold parameters of the same shapes and types, hand on tensors of the
    same shapes a sample, and do as many FLOPs at the same micro-batch and split. Memory stays as it is. A roofline has
    no launching, so that what the trace says of that is left out.

    Parameters
    ----------
    workload : Workload
        Costed by the roofline of `device`.
    measured : Workload
        A trace, on that device and in that precision.

    Returns
    -------
    Workload
        Its notes say what share of a step is measured.

    Raises
    ------
    MpsimError
        The trace is of another device or precision, or has no layer that is alike at any point.

    Examples
    --------
    >>> block = Layer.given("block", forward_s=1.0, backward_s=2.0, parameter_bytes=8)
    >>> costed = Workload.chain("costed", [block], activation_bytes=4)
    >>> timed = replace(block, costs=(replace(block.costs[0], fidelity=Fidelity.MEASURED),))
    >>> toy = DeviceSpec(name="toy", peak_flops_per_s={"float32": 1.0}, memory_bytes_per_s=1.0)
    >>> trace = replace(Workload.chain("trace", [timed], activation_bytes=4), device="toy")
    >>> with_measured_blocks(costed, trace, toy).notes
    ('micro-batch 1, tp=1: 100 % of a step has times measured in trace (1 of 1 layers); the rest is costed',)
    """
    _check(workload, measured, device)
    known: dict[_Shape, Cost] = {}
    for layer in measured.layers:
        for cost in layer.costs:
            if cost.fidelity is Fidelity.MEASURED:
                known.setdefault(_shape(measured, layer, cost), cost)
    same_update = workload.optimizer == measured.optimizer
    layers = tuple(
        replace(layer, costs=tuple(_timed(workload, layer, cost, known, same_update) for cost in layer.costs))
        for layer in workload.layers
    )
    notes = _shares(layers, measured.name)
    if not notes:
        raise MpsimError(
            f"no layer of {workload.name!r} is at any point of the kind, shapes and FLOPs of one of {measured.name!r}:"
            " trace one with the same sizes, sequence length, micro-batch and split"
        )
    return replace(workload, layers=layers, notes=(*workload.notes, *notes))


def _check(workload: Workload, measured: Workload, device: DeviceSpec) -> None:
    names = set(map(plain_name, (device.name, *device.reported)))
    if plain_name(measured.device) not in names or measured.scaling is not None:
        raise MpsimError(
            f"blocks of {measured.name!r} were measured on {measured.device!r}, the others are costed for"
            f" {device.name!r}: give a trace made on it"
        )
    ours, theirs = workload.precision, measured.precision
    if (ours.compute, ours.parameters) != (theirs.compute, theirs.parameters):
        raise MpsimError(
            f"blocks of {measured.name!r} were measured in {_words(measured)}, the others are costed in"
            f" {_words(workload)}: trace in that precision"
        )


def _words(workload: Workload) -> str:
    types = workload.precision
    return types.name or f"{types.compute} with parameters in {types.parameters}"


def _shape(workload: Workload, layer: Layer, cost: Cost) -> _Shape:
    """Return what decides what a layer does at a point."""
    parameters = sorted((one.shape, one.dtype) for one in layer.shard(cost.split).parameters)
    return (
        layer.kind, cost.microbatch, cost.split, cost.flops, tuple(parameters),
        tuple(sorted(_made(workload, layer, cost.split))),
    )  # fmt: skip


def _made(workload: Workload, layer: Layer, split: Split) -> list[tuple[str, tuple[int, ...]]]:
    """Return what a layer hands on: types, and shapes of a sample."""
    return [
        (tensor.dtype, tuple(-1 if i == tensor.batch_dim else size for i, size in enumerate(tensor.shape)))
        for tensor in workload.tensors
        if tensor.producer == layer.name
    ]


def _timed(workload: Workload, layer: Layer, cost: Cost, known: Mapping[_Shape, Cost], same_update: bool) -> Cost:
    found = known.get(_shape(workload, layer, cost))
    if found is None:
        return cost
    attention = cost.attention
    if attention is not None and found.attention is not None:
        attention = replace(attention, forward_fraction=found.attention.forward_fraction)
    samples = found.samples if same_update else replace(found.samples, optimizer_s=cost.samples.optimizer_s)
    return replace(cost, samples=samples, attention=attention, fidelity=Fidelity.MEASURED)


def _shares(layers: tuple[Layer, ...], name: str) -> list[str]:
    """Return a sentence for each point that has measured times: what share of a step they are."""
    found: dict[tuple[int, Split], list[Cost]] = {}
    for layer in layers:
        for cost in layer.costs:
            found.setdefault((cost.microbatch, cost.split), []).append(cost)
    notes = []
    for (microbatch, split), costs in found.items():
        timed = [cost for cost in costs if cost.fidelity is Fidelity.MEASURED]
        if timed:
            whole_s = sum(map(_seconds, costs))
            share = sum(map(_seconds, timed)) / whole_s if whole_s else 1.0
            notes.append(
                f"micro-batch {microbatch}, {split.text}: {100 * share:.3g} % of a step has times measured in {name}"
                f" ({len(timed)} of {len(costs)} layers); the rest is costed"
            )
    return notes


def _seconds(cost: Cost) -> float:
    return float(sum(median(getattr(cost.samples, name)) for name in TIMES if name != "accumulate_s"))
