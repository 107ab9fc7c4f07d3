"""Replicas: DistributedDataParallel where each holds all, `fully_shard` where they shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

__all__ = ["replicated", "sharded"]


def replicated(model: nn.Module, mesh: DeviceMesh, bucket_mib: float | None) -> nn.Module:
    """Return a model whose gradients are all-reduced in buckets; None: of torch's own size."""
    return DistributedDataParallel(
        model, process_group=mesh.get_group(), bucket_cap_mb=bucket_mib, init_sync=False, gradient_as_bucket_view=True
    )


def sharded(
    model: nn.Module,
    mesh: DeviceMesh,
    units: Sequence[str],
    *,
    reshard: bool | None,
    ahead: int,
    param_dtype: str = "",
    reduce_dtype: str = "",
) -> nn.Module:
    """Shard a model in place: each unit by itself, and the rest as root.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or a stage of one.
    mesh : DeviceMesh
        Of the replicas; of two dimensions, those of the first are replicas of what those of the second shard.
    units : sequence of str
        Paths of modules, in the order in which they run; those of other stages have no parameters.
    reshard : bool or None
        Whether what was gathered is dropped behind a forward; None: but for the root.
    ahead : int
        Units gathered before the one that is computed.
    param_dtype, reduce_dtype : str
        Types in which parameters are gathered and gradients reduced; empty: their own.
    """
    types = {"param_dtype": param_dtype, "reduce_dtype": reduce_dtype}
    policy = MixedPrecisionPolicy(**{name: getattr(torch, of) for name, of in types.items() if of})
    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": reshard, "mp_policy": policy}
    inner = model.model if hasattr(model, "connect") else model
    found = [inner.get_submodule(path) for path in units]
    found = [module for module in found if any(True for _ in module.parameters())]
    for module in found:
        fully_shard(module, **options)
    fully_shard(model, **options)
    if ahead != 1:
        for order in ([model, *found], [model, *reversed(found)]):
            forward = order[1:] == found
            for i, one in enumerate(order):
                after = order[i + 1 : i + 1 + ahead]
                if forward:
                    one.set_modules_to_forward_prefetch(after)
                else:  # a module that is there already stands for none: unasked, torch gathers one ahead
                    one.set_modules_to_backward_prefetch(after or [one])
    return model
