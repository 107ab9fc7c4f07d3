"""Look a layer's cost up in its table: measured, or interpolated inside the measured range, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np

from mpsim.errors import MpsimError
from mpsim.workload.layers import TIMES
from mpsim.workload.model import Cost, Fidelity, Layer, Samples, ShardCollective, Workload

__all__ = ["cost_at", "measured_microbatches", "median_s"]


def cost_at(layer: Layer, microbatch: int, tensor_parallel: int = 1) -> Cost:
    """Return a layer's cost at a micro-batch size and tensor shard.

    Between two measured micro-batches every quantile of the samples, the bytes and the FLOPs are interpolated
    linearly. Nothing is extrapolated, and nothing is divided by the tensor-parallel size.

    Parameters
    ----------
    layer : Layer
        Whose cost.
    microbatch : int
        Samples.
    tensor_parallel : int
        Ranks that share the layer.

    Raises
    ------
    MpsimError
        The shard was never measured, or the micro-batch lies outside the measured range.

    Examples
    --------
    >>> cost_at(Layer.given("a", forward_s=0.5, backward_s=1.0, microbatch=4), 4).samples.forward_s
    (0.5,)
    """
    table = {cost.microbatch: cost for cost in layer.costs if cost.tensor_parallel == tensor_parallel}
    if not table:
        have = sorted({cost.tensor_parallel for cost in layer.costs})
        raise MpsimError(
            f"layer {layer.name!r} was measured at tp {_join(have)}, the plan needs tp={tensor_parallel}:"
            f" trace again with --tensor {_join(sorted([*have, tensor_parallel]))}"
        )
    if microbatch in table:
        return table[microbatch]
    below = max((size for size in table if size < microbatch), default=None)
    above = min((size for size in table if size > microbatch), default=None)
    if below is None or above is None:
        have = sorted(table)
        raise MpsimError(
            f"layer {layer.name!r} was measured at micro-batch {_join(have)} (tp={tensor_parallel}), the plan needs"
            f" {microbatch}: trace again with --batch {_join(sorted([*have, microbatch]))}, or cut the batch otherwise"
        )
    return _between(table[below], table[above], microbatch)


def _join(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _between(low: Cost, high: Cost, microbatch: int) -> Cost:
    """Return the cost at a micro-batch between those of two measured ones."""
    part = (microbatch - low.microbatch) / (high.microbatch - low.microbatch)

    def count(a: int, b: int) -> int:
        return round(a + (b - a) * part)

    if [(c.kind, c.phase) for c in low.collectives] != [(c.kind, c.phase) for c in high.collectives]:
        raise MpsimError(
            f"micro-batches {low.microbatch} and {high.microbatch} make unlike collectives: trace {microbatch} itself"
        )
    if (low.host is None) != (high.host is None):
        raise MpsimError(
            f"of micro-batches {low.microbatch} and {high.microbatch} only one has host times:"
            f" trace {microbatch} itself"
        )
    return Cost(
        microbatch=microbatch,
        tensor_parallel=low.tensor_parallel,
        samples=_between_samples(low.samples, high.samples, part),
        host=_between_samples(low.host, high.host, part) if low.host and high.host else None,
        fidelity=Fidelity.weakest(Fidelity.INTERPOLATED, low.fidelity, high.fidelity),
        saved_bytes=count(low.saved_bytes, high.saved_bytes),
        flops=count(low.flops, high.flops),
        forward_transient_bytes=count(low.forward_transient_bytes, high.forward_transient_bytes),
        backward_transient_bytes=count(low.backward_transient_bytes, high.backward_transient_bytes),
        collectives=tuple(
            ShardCollective(kind=a.kind, bytes=count(a.bytes, b.bytes), phase=a.phase)
            for a, b in zip(low.collectives, high.collectives, strict=True)
        ),
    )


def _between_samples(low: Samples, high: Samples, part: float) -> Samples:
    def blend(name: str) -> tuple[float, ...]:
        a, b = getattr(low, name), getattr(high, name)
        quantiles = np.linspace(0.0, 1.0, max(len(a), len(b)))
        mixed = np.quantile(a, quantiles) * (1 - part) + np.quantile(b, quantiles) * part
        return tuple(float(value) for value in mixed)

    return Samples(**{name: blend(name) for name in TIMES})


def median_s(samples: Samples) -> tuple[float, float, float, float, float]:
    """Return the median forward, backward-input, backward-weight, optimizer and accumulation seconds of samples.

    Examples
    --------
    >>> median_s(Layer.given("a", forward_s=0.5, backward_s=1.0).costs[0].samples)
    (0.5, 0.5, 0.5, 0.0, 0.0)
    """
    forward, inputs, weights, optimizer, accumulate = (median(getattr(samples, name)) for name in TIMES)
    return forward, inputs, weights, optimizer, accumulate


def measured_microbatches(workload: Workload, tensor_parallel: int = 1) -> tuple[int, ...]:
    """Return the micro-batch sizes at which every layer has a cost, ascending."""
    sizes = [
        {cost.microbatch for cost in layer.costs if cost.tensor_parallel == tensor_parallel}
        for layer in workload.layers
    ]
    return tuple(sorted(set.intersection(*sizes)))
