"""A workload for people, as a text table, and for programs, as one dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from mpsim.calls import checked
from mpsim.tables import Text, align_rows, joined
from mpsim.units import format_bytes, format_duration
from mpsim.workload.costs import cost_at, median_s
from mpsim.workload.model import Cost, Layer, StepCheck, Workload
from mpsim.workload.split import WHOLE, Split, split_of
from mpsim.workload.trust import doubts, refused, remarks, times_of

__all__ = ["fed_bytes", "output_bytes", "show_workload", "workload_to_dict"]

_COLUMNS = (
    "layer",
    "kind",
    "forward",
    "backward inputs",
    "backward weights",
    "optimizer",
    "parameters",
    "saved",
    "output",
    "launching",
)
# What a narrow terminal can be without, the least needed first.
_SPARE = ("kind", "launching", "optimizer", "saved", "parameters")
_ALIKE = 0.1  # how much of the first's a time may be away from it where layers are alike
_FOLDED = "× n: so many layers of one kind and size: medians, their passes within 10 % of the first's (--each)"


def output_bytes(workload: Workload, layer: str, split: Split | int = 1, microbatch: int | None = None) -> int:
    """Return the bytes of the tensors that leave a layer, each once, by default at the reference micro-batch.

    Of the last layer that is the model's output, not the loss.

    Examples
    --------
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
    >>> output_bytes(Workload.chain("two", layers, activation_bytes=1024), "a")
    1024
    """
    size, reference = microbatch or workload.microbatch, workload.microbatch
    made = [tensor for tensor in workload.tensors if tensor.producer == layer]
    return sum(one.bytes(split) if one.batch_dim is None else one.bytes(split) * size // reference for one in made)


@checked
def show_workload(
    workload: Workload | str | Path, microbatch: int | None = None, split: Split | int = 1, *, each: bool = False
) -> Text:
    """Return a table of a workload's layers at one measured point, medians over the samples.

    Layers that follow one another and are alike, in their kind, their bytes and, within a tenth, the times of their
    passes and updates, stand in one row with the medians, unless `each` is to have its own.

    Raises
    ------
    MpsimError
        Nothing was measured there.

    Examples
    --------
    >>> layers = [Layer.given(name, forward_s=0.5, backward_s=1.0) for name in "ab"]
    >>> print(show_workload(Workload.chain("two", layers)).split("\\n\\n")[0])
    two: 2 layers, micro-batch 1, given by hand, not measured
    """
    workload = Workload.of(workload)
    size = microbatch or workload.microbatch
    found = [_Shown.of(workload, layer, cost_at(layer, size, split), split, size) for layer in workload.layers]
    rows = [[one] for one in found] if each else _alike(found)
    lines = [_COLUMNS, *map(_row, rows), _total_row(workload, found, split)]
    if not any(one.launch_s for one in found):
        lines = [line[:-1] for line in lines]
    blocks: list[str] = [align_rows(lines, left=(0, 1), spare=_SPARE)]
    if len(rows) < len(found):
        blocks.append(_FOLDED)
    return joined("\n\n", [_head(workload, size, split), joined("\n", blocks), *_notes(workload)])


class _Shown(NamedTuple):
    """What is shown of a layer."""

    name: str
    kind: str
    parameter_bytes: int
    saved_bytes: int
    output_bytes: int
    times_s: tuple[float, ...]
    launch_s: float

    @classmethod
    def of(cls, workload: Workload, layer: Layer, cost: Cost, split: Split | int, size: int) -> _Shown:
        """Return a layer at a point."""
        return cls(
            layer.name, layer.kind, layer.shard(split).parameter_bytes, cost.saved_bytes,
            output_bytes(workload, layer.name, split, size), _seconds(cost),
            sum(median_s(cost.host)[:4]) if cost.host else 0.0,
        )  # fmt: skip

    def like(self, other: _Shown) -> bool:
        """Whether one row can stand for both."""
        exact = [(one.kind, one.parameter_bytes, one.output_bytes) for one in (self, other)]
        times = zip((*self.times_s, self.saved_bytes), (*other.times_s, other.saved_bytes), strict=True)
        return exact[0] == exact[1] and all(abs(a - b) <= _ALIKE * a for a, b in times)


def _alike(found: Sequence[_Shown]) -> list[list[_Shown]]:
    """Return the layers, those together that follow one another and are like the first of them."""
    groups: list[list[_Shown]] = []
    for one in found:
        if groups and groups[-1][0].like(one):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _row(group: Sequence[_Shown]) -> tuple[str, ...]:
    first = group[0]
    name = first.name if len(group) == 1 else f"{first.name} … {_beyond(first.name, group[-1].name)} × {len(group)}"
    times = [median(times) for times in zip(*((*one.times_s, one.launch_s) for one in group), strict=True)]
    sizes = first.parameter_bytes, int(median(one.saved_bytes for one in group)), first.output_bytes
    *passes, launch = map(format_duration, times)
    return name, first.kind, *passes, *map(format_bytes, sizes), launch


def _beyond(first: str, last: str) -> str:
    """Return what a name has that another does not begin with, from a dot on."""
    words = zip(first.split("."), last.split("."), strict=False)
    return ".".join(last.split(".")[len([*takewhile(lambda pair: pair[0] == pair[1], words)]) :])


def _total_row(workload: Workload, found: Sequence[_Shown], split: Split | int) -> tuple[str, ...]:
    times = [sum(parts) for parts in zip(*((*one.times_s, one.launch_s) for one in found), strict=True)]
    *passes, launch = map(format_duration, times)
    parameters = format_bytes(_unique_parameter_bytes(workload, split))
    return "total", "", *passes, parameters, format_bytes(sum(one.saved_bytes for one in found)), "", launch


def _head(workload: Workload, size: int, split: Split | int) -> str:
    shard = _of_ranks(split_of(split))
    return f"{workload.name}: {len(workload.layers)} layers, micro-batch {size}{shard}, {' '.join(times_of(workload))}"


def _of_ranks(split: Split) -> str:
    if split == WHOLE:
        return ""
    if split == Split(tp=split.tp):
        return f", one of {split.tp} tensor-parallel ranks"
    return f", one of the ranks of {split.text}"


def _seconds(cost: Cost) -> tuple[float, ...]:
    samples = cost.samples
    parts = (samples.forward_s, samples.backward_input_s, samples.backward_weight_s, samples.optimizer_s)
    return tuple(median(part) for part in parts)


def _unique_parameter_bytes(workload: Workload, split: Split | int = 1) -> int:
    """Bytes of all parameters, a tied one once."""
    shards = [layer.shard(split) for layer in workload.layers]
    return sum({item.name: item.bytes for shard in shards for item in shard.parameters}.values())


def _notes(workload: Workload) -> list[str]:
    notes = []
    for check in workload.checks:
        shard = f", {check.split.text}" if check.split != WHOLE else ""
        notes.append(
            f"micro-batch {check.microbatch}{shard}: sum of layers / whole step = {check.ratio:.3f}"
            f" (whole step {format_duration(median(check.whole_s))}, {len(check.whole_s)} repetitions)"
            f"{_verdict(workload, check)}"
        )
    crossing = [tensor for tensor in workload.tensors if tensor.producer and len(tensor.consumers) > 1]
    if crossing:
        notes.append(f"{len(crossing)} tensors are read by more than one layer")
    if workload.scaling is not None:
        notes.append(workload.scaling.text)
    notes += [f"note: {text}" for text in remarks(workload)]
    return ["\n".join(notes)] if notes else []


def _verdict(workload: Workload, check: StepCheck) -> str:
    """Return what follows of a check for predictions."""
    point = check.microbatch, check.split
    if check in refused(workload, *point):
        return ": refused without --unchecked"
    return ": doubtful" if check in doubts(workload, *point) else ""


def workload_to_dict(workload: Workload) -> dict[str, Any]:
    """Return a workload as plain numbers, units in the keys, at its reference micro-batch.

    ``layers`` has one entry a layer; the totals count a tied parameter once.

    Examples
    --------
    >>> layers = [Layer.given(name, forward_s=0.5, backward_s=1.0, parameter_bytes=8) for name in "ab"]
    >>> found = workload_to_dict(Workload.chain("two", layers))
    >>> found["layers"][0]["gradient_bytes"], found["parameter_bytes"]
    (8, 16)
    """
    layers = [_layer_to_dict(workload, layer) for layer in workload.layers]
    totals = _totals(workload, layers)
    return {
        "name": workload.name,
        "microbatch": workload.microbatch,
        "device": workload.device,
        "clock": workload.clock,
        "threads": workload.threads,
        "optimizer": workload.optimizer,
        "dataset_samples": workload.dataset_samples,
        "notes": list(remarks(workload)),
        **totals,
        "totals": totals,
        "layers": layers,
        "tensors": [_tensor_to_dict(workload, i) for i in range(len(workload.tensors))],
        "checks": [
            {
                "microbatch": check.microbatch,
                "tensor_parallel": check.tensor_parallel,
                "split": check.split.text,
                "layers_over_whole_fraction": check.ratio,
                "whole_s": median(check.whole_s),
            }
            for check in workload.checks
        ],
    }


def _totals(workload: Workload, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the layers sum to, a tied parameter once, and what is fed to the model."""
    shards = [layer.shard() for layer in workload.layers]
    gradients = {item.parameter: item.bytes for shard in shards for item in shard.gradients}
    summed = ("output_bytes", "saved_bytes", "optimizer_bytes", "buffer_bytes", "flops")
    times = ("forward_s", "backward_input_s", "backward_weight_s", "optimizer_s")
    return {
        "parameter_bytes": _unique_parameter_bytes(workload),
        "gradient_bytes": sum(gradients.values()),
        "input_bytes": fed_bytes(workload, "input"),
        "target_bytes": fed_bytes(workload, "target"),
        **{key: sum(layer[key] for layer in layers) for key in (*summed, *times)},
    }


def fed_bytes(workload: Workload, role: str) -> int:
    """Return the bytes of what is fed to the model at the reference micro-batch: of role ``input`` or ``target``.

    Examples
    --------
    >>> fed_bytes(Workload.chain("one", [Layer.given("a", forward_s=0.5, backward_s=1.0)]), "input")
    0
    """
    return sum(tensor.bytes() for tensor in workload.tensors if tensor.role == role)


def _layer_to_dict(workload: Workload, layer: Layer) -> dict[str, Any]:
    cost, shard = cost_at(layer, workload.microbatch), layer.shard()
    names = ("forward_s", "backward_input_s", "backward_weight_s", "optimizer_s")
    return {
        "name": layer.name,
        "kind": layer.kind,
        "parameter_bytes": shard.parameter_bytes,
        "gradient_bytes": shard.gradient_bytes,
        "output_bytes": output_bytes(workload, layer.name),
        "saved_bytes": cost.saved_bytes,
        "optimizer_bytes": shard.optimizer_bytes,
        "buffer_bytes": shard.buffer_bytes,
        "flops": cost.flops,
        **dict(zip(names, _seconds(cost), strict=True)),
        "fidelity": cost.fidelity.value,
        "microbatches": sorted({item.microbatch for item in layer.costs}),
        "tensor_parallel": sorted({item.tensor_parallel for item in layer.costs}),
    }


def _tensor_to_dict(workload: Workload, index: int) -> dict[str, Any]:
    tensor = workload.tensors[index]
    return {
        "name": tensor.name,
        "producer": tensor.producer,
        "consumers": list(tensor.consumers),
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "bytes": tensor.bytes(),
        "role": tensor.role,
    }
