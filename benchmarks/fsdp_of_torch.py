"""What PyTorch's own ``fully_shard`` sends, recorded under a process group whose other ranks do not exist.

Of the tests of FSDP's collectives, and of ``fsdp_memory.py``.
"""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from mpsim.workload.example import Example, default_loss

KINDS = {"_allgather_base_": "all_gather", "_reduce_scatter_base_": "reduce_scatter", "allreduce_": "all_reduce"}


class Call(NamedTuple):
    """A collective of rank 0: its kind, the bytes of the whole tensor, and the ranks of its group."""

    kind: str
    bytes: int
    group: tuple[int, ...]


class Recorder(TorchDispatchMode):
    """Notes every collective in the order in which it is called."""

    def __init__(self):
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        space, _, name = func._schema.name.partition("::")
        if space == "c10d":
            tensors = args[0] if name == "allreduce_" else args[:2]
            size = max(one.numel() * one.element_size() for one in tensors)
            group = next(dist.ProcessGroup.unbox(one) for one in args if isinstance(one, torch.ScriptObject))
            self.calls.append(Call(KINDS[name], size, tuple(dist.get_process_group_ranks(group))))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def fake_ranks(*sizes: int, names: Sequence[str]):
    """Stand as rank 0 of a mesh of so many."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=torch.tensor(sizes).prod().item())
    try:
        yield init_device_mesh("cpu", sizes, mesh_dim_names=tuple(names))
    finally:
        dist.destroy_process_group()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the members of a model's lists of modules that hold parameters, innermost left out."""
    found: list[nn.Module] = []
    for path, module in model.named_modules():
        parts = path.split(".")
        if parts[-1].isdecimal() and not any(part.isdecimal() for part in parts[:-1]) and list(module.parameters()):
            found.append(module)
    return found


def sharded(model: nn.Module, mesh, blocks=None, ahead=1, prefetch=False, **of) -> nn.Module:
    """Shard each block and the model; where not one is gathered ahead, say so by torch's explicit prefetching.

    Of one, torch gathers ahead in backward unasked; in forward where that is asked for by `prefetch`, for on a GPU its
    host runs ahead.
    """
    units = blocks_of(model) if blocks is None else blocks
    for block in units:
        fully_shard(block, mesh=mesh, **of)
    fully_shard(model, mesh=mesh, **of)
    if ahead != 1 or prefetch:
        order = [model, *units]  # the root is gathered first in forward, and is first in backward
        for i, one in enumerate(order):
            one.set_modules_to_forward_prefetch(order[i + 1 : i + 1 + ahead])
        order = [model, *reversed(units)]
        for i, one in enumerate(order):
            # A module that is there already stands for none: with no module named, torch gathers one ahead.
            one.set_modules_to_backward_prefetch(order[i + 1 : i + 1 + ahead] or [one])
    return model


def calls_of(example: Example, mesh, *, microbatches=1, accumulate=False, blocks=None, keep=False, ahead=1, **of):
    """Return what a step sends."""
    model = sharded(example.model, mesh, blocks, ahead, **of)
    if keep:
        model.set_reshard_after_backward(False)
    with Recorder() as recorder:
        for i in range(microbatches):
            last = i == microbatches - 1
            model.set_requires_gradient_sync(last or not accumulate)
            if keep and last:
                model.set_reshard_after_backward(True)
            output = model(*example.inputs, **example.keywords)
            (example.loss or default_loss)(output, example.target).backward()
    return recorder.calls


def policy(gather: str = "", reduce: str = "") -> dict[str, MixedPrecisionPolicy]:
    """Return the types of communication as torch takes them."""
    kinds = {"param_dtype": gather, "reduce_dtype": reduce}
    given = {name: getattr(torch, kind) for name, kind in kinds.items() if kind}
    return {"mp_policy": MixedPrecisionPolicy(**given)} if given else {}
