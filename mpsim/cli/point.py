"""A workload at one point of its cost tables, as one rank sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mpsim.documents import encode
from mpsim.workload.costs import cost_at
from mpsim.workload.model import Layer, Tensor, Workload
from mpsim.workload.show import workload_to_dict
from mpsim.workload.split import WHOLE, Split, axes_of, split_of

__all__ = ["at_point", "point_to_dict"]


def at_point(workload: Workload, microbatch: int, split: Split | int) -> Workload:
    """Return the workload with that micro-batch as its reference, and one rank's shard as the whole.

    Raises
    ------
    MpsimError
        Nothing was measured there.
    """
    return replace(
        workload,
        microbatch=microbatch,
        layers=tuple(_layer(layer, microbatch, split) for layer in workload.layers),
        tensors=tuple(_tensor(one, microbatch, workload.microbatch, split) for one in workload.tensors),
    )


def _layer(layer: Layer, microbatch: int, split: Split | int) -> Layer:
    cost = replace(cost_at(layer, microbatch, split), collectives=(), **axes_of(WHOLE))
    shard = replace(layer.shard(split), **axes_of(WHOLE))
    return replace(layer, costs=(cost,), shards=(shard,))


def _tensor(tensor: Tensor, microbatch: int, reference: int, split: Split | int) -> Tensor:
    shapes = {shard.split: shard.shape for shard in tensor.shards}
    shape = list(shapes.get(split_of(split), tensor.shape))
    if tensor.batch_dim is not None:
        shape[tensor.batch_dim] = shape[tensor.batch_dim] * microbatch // reference
    return replace(tensor, shape=tuple(shape), shards=())


def point_to_dict(workload: Workload, at: Workload, split: Split | int) -> dict[str, Any]:
    """Return a workload at a point as one object: its layers, what is fed to it, its totals.

    Per layer `workload_to_dict` has the point's figures; added are the points that were measured, the whole backward
    and what the shard exchanges with its peers.
    """
    found = workload_to_dict(at)
    for entry, layer in zip(found["layers"], workload.layers, strict=True):
        cost = cost_at(layer, at.microbatch, split)
        entry["backward_s"] = entry["backward_input_s"] + entry["backward_weight_s"]
        entry["microbatches"] = sorted({item.microbatch for item in layer.costs})
        entry["tensor_parallel"] = sorted({item.tensor_parallel for item in layer.costs})
        entry["splits"] = [split.text for split in sorted({item.split for item in layer.costs})]
        entry["collectives"] = [encode(one) for one in cost.collectives]
    fed = {role: sum(one.bytes() for one in at.tensors if one.role == role) for role in ("input", "target", "output")}
    totals: dict[str, Any] = {f"{role}_bytes": count for role, count in fed.items()}
    totals |= {"backward_s": sum(entry["backward_s"] for entry in found["layers"]), "tp": split_of(split).tp}
    totals["split"] = split_of(split).text
    return found | totals
