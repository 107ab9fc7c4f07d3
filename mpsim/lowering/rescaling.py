"""Costs of one device as those of another: by the ratio of their rooflines, pass by pass, or by a factor that is given.

For each pass of each layer

    time on the target = time measured × roofline(target) / roofline(source)
    roofline           = FLOPs / (peak · matmul_fraction) + bytes / memory bandwidth + one kernel's floor

(https://doi.org/10.1145/1498765.1498785), so that what the source device loses to its roofline the target loses too.
FLOPs and bytes add, since a layer is many kernels: products are bound by the one, all between them by the other. Of
FLOPs a workload knows those of forward; backward for inputs and backward for weights are taken as as many each. Of
bytes it knows parameters, gradients, optimizer state, what goes in and out, and what is kept for backward, which one
kernel writes and the next one reads; on the way back each has a gradient that is written and read, and is read itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from statistics import median

from mpsim.errors import MpsimError
from mpsim.lowering.crossings import tensor_bytes
from mpsim.scaling import Scaling
from mpsim.topology.catalog import CatalogDevice, device
from mpsim.topology.reported import catalog_name
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.layers import TIMES
from mpsim.workload.model import Cost, Fidelity, Layer, Precision, Tensor, Workload
from mpsim.workload.precision import precision, product_rate, watched_dtype

__all__ = ["check_speed", "rescaled", "roofline_of", "sped", "works"]

# As the catalog names the rates of products.
_RATES = (
    "float64", "float32", "tf32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "mxfp8", "float4", "nvfp4",
    "int8",
)  # fmt: skip
_Factors = Callable[[Layer, Cost], Mapping[str, float]]


@cache
def roofline_of(name: str, precision_name: str = "") -> DeviceSpec:
    """Return the roofline of a device of the catalog, its products at the rate of a precision.

    Parameters
    ----------
    name : str
        Of the device.
    precision_name : str
        Such as ``fp8-mixed``; without one each product is at the rate of the type in which it is computed.

    Raises
    ------
    MpsimError
        There is no device or precision of that name, or the device has no such rate.

    Examples
    --------
    >>> roofline_of("A100-SXM4-80GB").peak_flops_per_s["bfloat16"]
    312000000000000.0
    >>> roofline_of("H100-SXM5-80GB", "fp8-mixed").linear_dtype
    'float8_e4m3fn'
    """
    spec = _roofline(device(name))
    return _at_precision(spec, device(name), precision(precision_name)) if precision_name else spec


def _at_precision(spec: DeviceSpec, one: CatalogDevice, chosen: Precision) -> DeviceSpec:
    """Return a roofline whose products are at the rate of a precision."""
    peaks = {**spec.peak_flops_per_s, chosen.compute: one.peak_flop_per_s(product_rate(chosen))}
    if chosen.compute == watched_dtype(chosen):
        return replace(spec, peak_flops_per_s=peaks)
    one.peak_flop_per_s(watched_dtype(chosen))  # it must have that one as well
    return replace(spec, peak_flops_per_s=peaks, linear_dtype=chosen.compute)


def _roofline(one: CatalogDevice) -> DeviceSpec:
    peaks = {dtype: peak for dtype in _RATES if (peak := one.peak_or_none(dtype)) is not None}
    if "float32" in peaks:
        peaks.setdefault("tf32", peaks["float32"])  # where a device has no TF32, float32 is what runs
    spec = DeviceSpec(
        name=one.name,
        peak_flops_per_s=peaks,
        memory_bytes_per_s=one.memory_bandwidth_bytes_per_s,
        memory_bytes=one.usable_memory_bytes or one.memory_bytes,
        reported=tuple(text.strip() for text in one.reported.split(";") if text.strip()),
    )
    return spec if one.matmul_fraction is None else replace(spec, matmul_fraction=one.matmul_fraction)


def works(layer: Layer, cost: Cost, edge_bytes: int = 0) -> dict[str, tuple[int, int]]:
    """Return the FLOPs and the bytes of each pass of a layer at one point of its costs.

    `edge_bytes` are those of the tensors that go in and out.

    Examples
    --------
    >>> layer = Layer.given("a", forward_s=1.0, backward_s=2.0, parameter_bytes=8, saved_bytes=16)
    >>> found = works(layer, layer.costs[0], 4)
    >>> found["forward_s"], found["backward_weight_s"], found["optimizer_s"], found["accumulate_s"]
    ((0, 44), (0, 28), (0, 24), (0, 24))
    """
    shard = layer.shard(cost.split)
    kept = cost.saved_bytes
    return {
        "forward_s": (cost.flops, edge_bytes + 2 * kept + shard.parameter_bytes),
        "backward_input_s": (cost.flops, edge_bytes + 3 * kept + shard.parameter_bytes),
        "backward_weight_s": (cost.flops, edge_bytes + kept + shard.gradient_bytes),
        # The gradient is read, parameters and state are read and written.
        "optimizer_s": (0, shard.gradient_bytes + 2 * (shard.parameter_bytes + shard.optimizer_bytes)),
        "accumulate_s": (0, 3 * shard.gradient_bytes),
    }


def rescaled(workload: Workload, source: str, target: str) -> Workload:
    """Return a workload's costs as the ratio of two rooflines makes them, pass by pass.

    Host times stay: another device does not make its processor quicker. Wall times are dropped.

    Parameters
    ----------
    workload : Workload
        As measured on `source`.
    source, target : str
        Devices, by the catalog's names or by those that drivers report.

    Raises
    ------
    MpsimError
        The costs are scaled already, or either device is not in the catalog or has no peak for a layer's type.

    Examples
    --------
    >>> layer = Layer.given("a", forward_s=1.0, backward_s=2.0, parameter_bytes=67 * 10**9)
    >>> found = rescaled(Workload.chain("one", [layer]), "H100-SXM5-80GB", "A100-SXM4-80GB")
    >>> round(found.layers[0].costs[0].samples.forward_s[0], 3)  # by memory bandwidth, 3,350 and 2,039 GB/s
    1.643
    """
    there, here = _spec(workload, source, target, source), _spec(workload, source, target, target)
    edges = _edges(workload)

    def factors(layer: Layer, cost: Cost) -> dict[str, float]:
        around = edges[layer.name]
        dtype = _dtype(workload, layer, around)
        bytes_of = [tensor_bytes(one, cost.microbatch, workload.microbatch, cost.split) for one in around]
        try:
            return {
                name: _seconds(here, flops, moved, dtype) / _seconds(there, flops, moved, dtype)
                for name, (flops, moved) in works(layer, cost, sum(bytes_of)).items()
            }
        except MpsimError as error:
            raise MpsimError(f"cannot rescale {workload.name!r} from {source} to {target}: {error}") from None

    return _scaled(workload, factors, Scaling(source=source, target=target, by="roofline", low=1, median=1, high=1))


def _seconds(spec: DeviceSpec, flops: int, moved_bytes: int, dtype: str) -> float:
    return spec.seconds(flops, 0, dtype) + moved_bytes / spec.memory_bytes_per_s


def sped(workload: Workload, speed: float, target: str) -> Workload:
    """Return a workload's costs for devices that compute so many times as fast as the one it was measured on.

    Raises
    ------
    MpsimError
        The costs are scaled already, or a speed that is not finite and more than 0.

    Examples
    --------
    >>> work = Workload.chain("one", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> sped(work, 4.0, "").layers[0].costs[0].samples.forward_s
    (0.25,)
    """
    check_speed(speed)
    factors = dict.fromkeys(TIMES, 1 / speed)
    by = Scaling(source=workload.device, target=target, by="speed", low=1, median=1, high=1)
    return _scaled(workload, lambda layer, cost: factors, by)


def check_speed(speed: float) -> None:
    """Refuse a speed that is not finite and more than 0."""
    if not (math.isfinite(speed) and speed > 0):
        raise MpsimError(f"speed is {speed}, expected a number above 0: how many times as fast the devices compute")


def _spec(workload: Workload, source: str, target: str, name: str) -> DeviceSpec:
    known = catalog_name(name)
    if known is None:
        ways = f"state a factor (--speed F), or take roofline costs (mpsim trace --analytical {target})"
        if name == source:
            ways = f"trace it on {target} or another device of the catalog, {ways}"
        else:
            ways = "write a device that mpsim show catalog lists, or state a factor (--speed F)"
        raise MpsimError(
            f"cannot rescale {workload.name!r} from {source} to {target}: no roofline of {name}, it is not in the"
            f" catalog: {ways}"
        )
    return roofline_of(known)


def _edges(workload: Workload) -> dict[str, list[Tensor]]:
    """Return the tensors that go in and out of each layer."""
    edges: dict[str, list[Tensor]] = {layer.name: [] for layer in workload.layers}
    for tensor in workload.tensors:
        for name in {tensor.producer, *tensor.consumers} & edges.keys():
            edges[name].append(tensor)
    return edges


def _dtype(workload: Workload, layer: Layer, around: Sequence[Tensor]) -> str:
    """Return the type in which a layer computes: what the trace says, else that of most of what it holds or reads."""
    precision = workload.precision
    if precision.name:
        return product_rate(precision)
    held = Counter[str]()
    for parameter in layer.shards[0].parameters if layer.shards else ():
        held[parameter.dtype] += parameter.bytes
    if not held:
        held.update({tensor.dtype: tensor.bytes() for tensor in around})
    floating = [(count, dtype) for dtype, count in held.items() if "float" in dtype]
    return max(floating)[1] if floating else precision.compute


def _scaled(workload: Workload, factors: _Factors, scaling: Scaling) -> Workload:
    """Return the workload with every time multiplied by its pass's factor."""
    if workload.scaling is not None:
        raise MpsimError(f"the costs of {workload.name!r} are {workload.scaling.text}: scale those measured instead")
    met: list[float] = []

    def cost(layer: Layer, one: Cost) -> Cost:
        by = factors(layer, one)
        times = {name: getattr(one.samples, name) for name in TIMES}
        met.extend(by[name] for name, values in times.items() if any(values))
        return replace(
            one,
            samples=replace(
                one.samples, **{name: tuple([value * by[name] for value in values]) for name, values in times.items()}
            ),
            wall=None,
            fidelity=Fidelity.weakest(one.fidelity, Fidelity.SCALED),
        )

    layers = tuple(replace(layer, costs=tuple(cost(layer, one) for one in layer.costs)) for layer in workload.layers)
    met = met or [1.0]
    spread = replace(scaling, low=min(met), median=median(met), high=max(met))
    return replace(workload, layers=layers, scaling=spread)
