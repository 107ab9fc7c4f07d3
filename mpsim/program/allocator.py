"""What PyTorch holds on a CUDA device besides tensors, and the segments in which its caching allocator keeps them.

The sizes are those of https://github.com/pytorch/pytorch, c10/cuda/CUDACachingAllocator.cpp, and
c10/core/AllocatorConfig.h (also in https://docs.pytorch.org/docs/stable/notes/cuda.html, "Memory management").
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpsim.workload.model import Workload

__all__ = ["on_cuda", "segment_bytes", "update_copies", "workspace_bytes"]

MIB = 2**20
# A block is whole 512 bytes. Blocks of up to 1 MiB lie in segments of 2 MiB, larger ones of less than 10 MiB in
# segments of 20 MiB, and the others in segments of their own, of whole 2 MiB, whose rest another block may take.
_BLOCK, _SMALL, _SMALL_SEGMENT, _LARGE, _LARGE_SEGMENT, _WHOLE = 512, MIB, 2 * MIB, 10 * MIB, 20 * MIB, 2 * MIB
# cuBLAS works in a space of its own for each thread that calls it, taken from that allocator: forward's and backward's
# (aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize): 32 MiB from Hopper on, before that 8.125.
_THREADS, _HOPPER_BYTES, _BEFORE_BYTES = 2, 32 * MIB, (2 * 4096 + 16 * 8) * 1024
_HOPPER = ("H100", "H200", "H800", "H20", "GH200", "B100", "B200", "B300", "GB200", "GB300", "RTX 50", "RTX PRO 6000")
# Copies of the parameters that an update makes for a while: by default it works on all of them at once, which takes
# "~ sizeof(params) more peak memory" (https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html, foreach).
_UPDATE_COPIES = {"adam": 1, "adamw": 1}


def on_cuda(workload: Workload) -> bool:
    """Whether a workload was traced where PyTorch's CUDA allocator keeps the memory."""
    return workload.clock.startswith("cuda")


def workspace_bytes(workload: Workload) -> int:
    """Return what cuBLAS holds on a rank's device.

    Examples
    --------
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = (Layer.given("a", forward_s=1.0, backward_s=2.0),)
    >>> workspace_bytes(Workload(name="w", layers=layers, device="NVIDIA H200", clock="cuda-kernel"))
    67108864
    """
    if not on_cuda(workload):
        return 0
    return _THREADS * (_HOPPER_BYTES if any(name in workload.device for name in _HOPPER) else _BEFORE_BYTES)


def update_copies(workload: Workload) -> int:
    """Return how many times the parameters' bytes an update takes for a while."""
    return _UPDATE_COPIES.get(workload.optimizer, 0) if on_cuda(workload) else 0


def segment_bytes(sizes: Iterable[int]) -> int:
    """Return what the allocator reserves for tensors of these bytes, made one after another and kept.

    Examples
    --------
    >>> segment_bytes([100]), segment_bytes([4 * MIB] * 5), segment_bytes([11 * MIB])
    (2097152, 20971520, 12582912)
    """
    small = reserved = 0
    free: list[int] = []
    for size in sizes:
        block = -(-size // _BLOCK) * _BLOCK
        if block <= _SMALL:
            small += block
            continue
        place = bisect_left(free, block)
        if place < len(free):
            rest = free.pop(place) - block
        else:
            segment = _LARGE_SEGMENT if block < _LARGE else -(-block // _WHOLE) * _WHOLE
            reserved += segment
            rest = segment - block
        if rest > _SMALL:
            insort(free, rest)
    return reserved + -(-small // _SMALL_SEGMENT) * _SMALL_SEGMENT
