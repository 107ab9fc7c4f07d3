"""Tensor-parallel styles that PyTorch's own API has not: a mixture's experts, and weights of every rank whose gradients
the ranks add up.

They are put together from PyTorch's own parts, DTensor's `from_local`, `to_local` and `redistribute`, so that what they
exchange is what PyTorch exchanges.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle

__all__ = ["ExpertsParallel", "ReplicatedSum", "RopeSum", "holds_experts", "local_experts", "packed_halves"]


def holds_experts(module: nn.Module) -> bool:
    """Whether a module holds the experts of a mixture as transformers does: a matrix of each in one parameter.

    Examples
    --------
    >>> holds_experts(nn.Linear(2, 2))
    False
    """
    weights = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
    return all(isinstance(weight, nn.Parameter) and weight.dim() == 3 for weight in weights)


def local_experts(module: nn.Module, ranks: int, rank: int) -> dict[str, torch.Tensor]:
    """Return one rank's part of each parameter of a mixture's experts: some inner features of every expert.

    Gate and up stand one behind the other in one parameter, or in turn (`is_concatenated` false); a rank has its part
    of both. The bias behind the sum over ranks stays whole.

    Examples
    --------
    >>> module = nn.Module()
    >>> module.gate_up_proj = nn.Parameter(torch.arange(8.0).view(1, 8, 1))
    >>> module.down_proj = nn.Parameter(torch.ones(1, 1, 4))
    >>> parts = local_experts(module, 2, 1)
    >>> parts["gate_up_proj"].flatten().tolist(), parts["down_proj"].shape
    ([2.0, 3.0, 6.0, 7.0], torch.Size([1, 1, 2]))
    """
    outputs, inputs = (-1, -2) if getattr(module, "is_transposed", False) else (-2, -1)
    halves = 2 if getattr(module, "is_concatenated", True) else 1
    split = {"gate_up_proj": (outputs, halves), "gate_up_proj_bias": (-1, halves), "down_proj": (inputs, 1)}
    parts = {}
    for name, weight in module.named_parameters(recurse=False):
        if name in split:
            dim, pieces = split[name]
            parts[name] = torch.cat(
                [piece.chunk(ranks, dim)[rank] for piece in weight.detach().chunk(pieces, dim)], dim
            )
    return parts


def packed_halves(model: nn.Module) -> set[str]:
    """Return the paths of a model's parameters of which a rank has a part of each half: experts' gate and up.

    Examples
    --------
    >>> packed_halves(nn.Linear(2, 2))
    set()
    """
    held = [(path, module) for path, module in model.named_modules() if holds_experts(module)]
    concatenated = [(path, module) for path, module in held if getattr(module, "is_concatenated", True)]
    names = ("gate_up_proj", "gate_up_proj_bias")
    return {f"{path}.{name}" for path, module in concatenated for name in names if name in module._parameters}


def _summed_backward(value: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """Return a value that all ranks have, whose gradient they sum: each computes a part of it."""
    shared = DTensor.from_local(value, mesh, (Replicate(),), run_check=False)
    return shared.to_local(grad_placements=(Partial(),))


def _summed_forward(value: torch.Tensor, mesh: DeviceMesh, summed: Placement) -> torch.Tensor:
    """Return the sum of what the ranks have, or of some tokens."""
    part = DTensor.from_local(value, mesh, (Partial(),), run_check=False)
    return part.redistribute(placements=(summed,)).to_local()


def _of_all_tokens(value: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """Return what all ranks have of their tokens, [tokens, ...], whose gradient they sum."""
    part = DTensor.from_local(value, mesh, (Shard(0),), run_check=False)
    return part.redistribute(placements=(Replicate(),)).to_local(grad_placements=(Partial(),))


class ExpertsParallel(ParallelStyle):  # type: ignore[misc]
    """Each rank has some inner features of every expert: it reads all tokens, and the ranks sum the outputs.

    Where the ranks share the sequence, each comes with its own tokens, and leaves with the sums of these.
    """

    def __init__(self, *, sequence: bool = False) -> None:
        super().__init__()
        self.sequence = sequence

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        for name, part in local_experts(module, mesh.size(), mesh.get_local_rank()).items():
            setattr(module, name, nn.Parameter(part.clone(), requires_grad=getattr(module, name).requires_grad))

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden, chosen, shares = inputs
            if self.sequence:
                return tuple(_of_all_tokens(item, mesh) for item in inputs)
            return _summed_backward(hidden, mesh), chosen, _summed_backward(shares, mesh)

        module.register_forward_pre_hook(before)
        summed = Shard(0) if self.sequence else Replicate()
        module.register_forward_hook(lambda _module, _inputs, output: _summed_forward(output, mesh, summed))
        return module


class ReplicatedSum(ParallelStyle):  # type: ignore[misc]
    """Each rank has the whole module and runs it on its own heads: the ranks sum the gradients of its parameters."""

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        names = [name for name, _ in module.named_parameters(recurse=False)]

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            for name in names:  # an attribute of the instance comes before a parameter of that name
                module.__dict__[name] = _summed_backward(module._parameters[name], mesh)

        def after(*_: Any) -> None:
            for name in names:
                del module.__dict__[name]

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after, always_call=True)
        return module


class RopeSum(ParallelStyle):  # type: ignore[misc]
    """Each rank has the whole of latent attention's first key projection, whose rotated key every head reads.

    The gradient of the other outputs is whole: the second projection of keys and values has summed it.
    """

    def __init__(self, rotated: int) -> None:
        super().__init__()
        self.rotated = rotated

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        def after(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            latent, rotated = output.split([output.shape[-1] - self.rotated, self.rotated], dim=-1)
            return torch.cat([latent, _summed_backward(rotated, mesh)], dim=-1)

        module.register_forward_hook(after)
        return module
