"""A row of measured units as a workload with two clocks: what is predicted from, and nothing of what judges it.

- A unit's host time was taken of an exported graph run unit by unit, which launches more slowly than the model itself.
  So each phase's host times are scaled to what the plain step of one micro-batch took the host in that phase.
- An update is one call over all parameters: its device time is shared out by bytes, its host time by tensors.
- Adding to gradients that are there was not measured: it reads both and writes one, at what a copy moves in memory.
- The loss lies in the last unit, which keeps the logarithms of the probabilities: as many bytes as it has outputs. Its
  forward makes the outputs for a while, its backward the gradients of both.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.topology import catalog
from mpsim.validate.steps_file import MeasuredRow, MeasuredStep, Unit
from mpsim.workload.model import Cost, Fidelity, Gradient, Layer, Parameter, Precision, Samples, Shard, Workload

__all__ = ["accumulate_s", "clocks", "is_bf16", "precision_of", "step_of_one", "workload_of"]

# A copy within an H200 was seen to read and write 4.3 TB/s together, of its data sheet's 4.8.
_COPY_FRACTION = 4.3 / 4.8
_ADD_PASSES = 3


def is_bf16(row: MeasuredRow) -> bool:
    """Whether a row's numbers are of that type, which its name says; otherwise they are float32."""
    return "bf16" in row.model


def precision_of(row: MeasuredRow) -> Precision:
    """Return the types of numbers of a row."""
    if not is_bf16(row):
        return Precision(name="fp32")
    one = "bfloat16"
    return Precision(name="bf16", compute=one, parameters=one, gradients=one, optimizer=one)


def step_of_one(row: MeasuredRow) -> MeasuredStep:
    """Return the row's step of fewest micro-batches, whose host has the least reason to wait."""
    return min(row.steps, key=lambda step: step.microbatches)


def accumulate_s(device: str, gradient_bytes: int) -> float:
    """Return what adding gradients to others takes on a device of the catalog; 0 on one that is not there.

    Examples
    --------
    >>> round(accumulate_s("NVIDIA H200", 4_300_000_000), 9)
    0.003
    """
    known = [name for name in catalog.device_names() if name.split("-")[0].lower() in device.lower().split()]
    if not known:
        return 0.0
    return _ADD_PASSES * gradient_bytes / (catalog.device(known[0]).memory_bandwidth_bytes_per_s * _COPY_FRACTION)


def clocks(row: MeasuredRow, host: MeasuredStep, gradient_bytes: Sequence[int]) -> list[tuple[Samples, Samples]]:
    """Return device and host samples of each unit of a row.

    Parameters
    ----------
    host : MeasuredStep
        Whose host times the units' are scaled to.
    gradient_bytes : sequence of int
        Of each unit.
    """
    units = row.units
    forward = _scale(host.host_forward_s / host.microbatches, [unit.forward[0] for unit in units])
    backward = _scale(host.host_backward_s / host.microbatches, [unit.backward[0] for unit in units])
    tensors = sum(unit.tensors for unit in units)
    parameters = sum(unit.parameters for unit in units)
    found = []
    for unit, added in zip(units, gradient_bytes, strict=True):
        by_host = unit.tensors / tensors if tensors else 0.0
        by_device = unit.parameters / parameters if parameters else 0.0
        found.append(
            (
                _samples(unit, 1, 1.0, 1.0, row.optimizer_whole[1] * by_device, accumulate_s(row.device, added)),
                _samples(unit, 0, forward, backward, host.host_optimizer_s * by_host, 0.0),
            )
        )
    return found


def _scale(whole_s: float, parts_s: Sequence[float]) -> float:
    return whole_s / sum(parts_s) if sum(parts_s) else 1.0


def _samples(
    unit: Unit, clock: int, forward: float, backward: float, optimizer_s: float, accumulate_s: float
) -> Samples:
    inputs_s = min(unit.backward_input[clock], unit.backward[clock])
    return Samples(
        forward_s=(unit.forward[clock] * forward,),
        backward_input_s=(inputs_s * backward,),
        backward_weight_s=((unit.backward[clock] - inputs_s) * backward,),
        optimizer_s=(optimizer_s,),
        accumulate_s=(accumulate_s,),
    )


def workload_of(row: MeasuredRow) -> Workload:
    """Return a row's units as a workload of one device: a chain, whose tensors between layers are not known.

    Examples
    --------
    >>> from mpsim.validate.steps_file import load_steps
    >>> work = workload_of(load_steps()[0])
    >>> [layer.name for layer in work.layers], work.precision.name
    (['fc1', 'fc2', 'fc3', 'fc4'], 'fp32')
    """
    size = 2 if is_bf16(row) else 4
    times = clocks(row, step_of_one(row), [unit.parameters * size for unit in row.units])
    layers = [_layer(row, i, *both, size) for i, both in enumerate(times)]
    return Workload(
        name=row.name,
        layers=tuple(layers),
        microbatch=row.microbatch,
        device=row.device or "not said",
        clock="cuda-kernel",
        optimizer="adamw",
        precision=precision_of(row),
    )


def _layer(row: MeasuredRow, index: int, device: Samples, host: Samples, size: int) -> Layer:
    unit = row.units[index]
    outputs = unit.saved_bytes if index == len(row.units) - 1 else 0
    cost = Cost(
        microbatch=row.microbatch,
        samples=device,
        host=host,
        fidelity=Fidelity.MEASURED,
        saved_bytes=unit.saved_bytes,
        flops=unit.flops,
        forward_transient_bytes=outputs,
        backward_transient_bytes=2 * outputs,
    )
    return Layer(name=unit.name, shards=(_shard(unit, size, precision_of(row).parameters),), costs=(cost,))


def _shard(unit: Unit, size: int, dtype: str) -> Shard:
    """Return what a unit holds: how its parameters fall into tensors is not known, only how many those are."""
    if not unit.parameters:
        return Shard()
    each = unit.parameters // unit.tensors if unit.tensors else unit.parameters
    counts = [each] * max(unit.tensors - 1, 0)
    counts.append(unit.parameters - sum(counts))
    return Shard(
        parameters=tuple(
            Parameter(name=f"{unit.name}.{i}", shape=(count,), dtype=dtype) for i, count in enumerate(counts)
        ),
        gradients=tuple(Gradient(parameter=f"{unit.name}.{i}", bytes=count * size) for i, count in enumerate(counts)),
        optimizer_bytes=2 * unit.parameters * size,
    )
