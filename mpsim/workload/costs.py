"""Look a layer's cost up in its table: measured, or interpolated inside the measured range, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from mpsim.errors import MpsimError
from mpsim.workload.layers import TIMES, Attention, traced_splits
from mpsim.workload.model import Cost, Fidelity, Layer, Samples, Workload
from mpsim.workload.split import Split, split_of

__all__ = ["cost_at", "measured_microbatches", "median_s"]


def cost_at(layer: Layer, microbatch: int, split: Split | int = 1) -> Cost:
    """Return a layer's cost at a micro-batch size and split.

    Between two measured micro-batches every quantile of the samples, the bytes and the FLOPs are interpolated
    linearly. Nothing is extrapolated, and nothing is divided by the number of ranks.

    Parameters
    ----------
    layer : Layer
        Whose cost.
    microbatch : int
        Samples.
    split : Split or int
        Ranks that share the layer; a number is of tensor-parallel ones.

    Raises
    ------
    MpsimError
        The shard was never measured, or the micro-batch lies outside the measured range.

    Examples
    --------
    >>> cost_at(Layer.given("a", forward_s=0.5, backward_s=1.0, microbatch=4), 4).samples.forward_s
    (0.5,)
    """
    split = split_of(split)
    table = {cost.microbatch: cost for cost in layer.costs if cost.split == split}
    if not table:
        traced, remedy = traced_splits([cost.split for cost in layer.costs], split)
        raise MpsimError(f"layer {layer.name!r} was measured at {traced}, the plan needs {split.text}: {remedy}")
    if microbatch in table:
        return table[microbatch]
    below = max((size for size in table if size < microbatch), default=None)
    above = min((size for size in table if size > microbatch), default=None)
    if below is None or above is None:
        have = sorted(table)
        raise MpsimError(
            f"layer {layer.name!r} was measured at micro-batch {_join(have)} ({split.text}), the plan needs"
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

    if [replace(c, bytes=0) for c in low.collectives] != [replace(c, bytes=0) for c in high.collectives]:
        raise MpsimError(
            f"micro-batches {low.microbatch} and {high.microbatch} make unlike collectives: trace {microbatch} itself"
        )
    if (low.host is None) != (high.host is None):
        raise MpsimError(
            f"of micro-batches {low.microbatch} and {high.microbatch} only one has host times:"
            f" trace {microbatch} itself"
        )
    return replace(
        low,
        microbatch=microbatch,
        samples=_between_samples(low.samples, high.samples, part),
        host=_between_samples(low.host, high.host, part) if low.host and high.host else None,
        wall=None,
        fidelity=Fidelity.weakest(Fidelity.INTERPOLATED, low.fidelity, high.fidelity),
        saved_bytes=count(low.saved_bytes, high.saved_bytes),
        flops=count(low.flops, high.flops),
        forward_transient_bytes=count(low.forward_transient_bytes, high.forward_transient_bytes),
        backward_transient_bytes=count(low.backward_transient_bytes, high.backward_transient_bytes),
        collectives=tuple(
            replace(a, bytes=count(a.bytes, b.bytes)) for a, b in zip(low.collectives, high.collectives, strict=True)
        ),
        attention=_between_cores(low.attention, high.attention, part),
    )


def _between_cores(low: Attention | None, high: Attention | None, part: float) -> Attention | None:
    if low is None or high is None:
        return None
    return Attention(
        forward_fraction=low.forward_fraction * (1 - part) + high.forward_fraction * part,
        saved_bytes=round(low.saved_bytes + (high.saved_bytes - low.saved_bytes) * part),
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


def measured_microbatches(workload: Workload, split: Split | int = 1) -> tuple[int, ...]:
    """Return the micro-batch sizes at which every layer has a cost, ascending."""
    split = split_of(split)
    sizes = [{cost.microbatch for cost in layer.costs if cost.split == split} for layer in workload.layers]
    return tuple(sorted(set.intersection(*sizes)))
