"""Layers that ranks share: each module in the style of `torch.distributed.tensor.parallel` that it was traced in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

__all__ = ["STYLES", "local_parameters", "share_layers"]

# A style reads the whole of its input, or a part of it, and returns a part, or the sum or the whole of all.
STYLES: dict[str, Callable[[nn.Module], ParallelStyle]] = {
    "colwise": lambda module: ColwiseParallel(),
    "rowwise": lambda module: RowwiseParallel(),
    "rowwise_split_input": lambda module: RowwiseParallel(input_layouts=Replicate()),
    "colwise_gather_output": lambda module: ColwiseParallel(output_layouts=Replicate()),
    "vocabulary": lambda module: (
        RowwiseParallel(input_layouts=Replicate())
        if isinstance(module, nn.Embedding)
        else ColwiseParallel(use_local_output=False)
    ),
}
_READS_ALL = ("colwise", "colwise_gather_output", "vocabulary")


def share_layers(model: nn.Module, styles: Mapping[str, str], mesh: DeviceMesh) -> None:
    """Shard the modules of a model in place, by path, ``*`` for any number in it; parameters that were tied stay so.

    All ranks have the same weights. Query, key and value, or gate and up, read one distributed tensor, so that their
    gradients of it are summed at once.
    """
    shared: dict[tuple[str, int], tuple[Any, Any]] = {}
    tied: dict[nn.Parameter, nn.Parameter] = {}
    for path, module in model.named_modules():
        style = styles.get(path) or styles.get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path))
        if style is None or not any(True for _ in module.parameters()):  # the second: of another stage
            continue
        whole = dict(module._parameters)
        parallelize_module(module, mesh, STYLES[style](module), src_data_rank=None)
        for name, parameter in whole.items():
            if parameter is not None:
                module._parameters[name] = tied.setdefault(parameter, module._parameters[name])
        if isinstance(module, nn.Linear) and style in _READS_ALL:
            module.register_forward_pre_hook(_one_input(path.rpartition(".")[0], shared, mesh), prepend=True)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = tied.get(parameter, parameter)


def _one_input(parent: str, shared: dict[tuple[str, int], tuple[Any, Any]], mesh: DeviceMesh) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        tensor = inputs[0]
        if not isinstance(tensor, torch.Tensor) or isinstance(tensor, DTensor):
            return inputs
        key = (parent, 0)
        if key not in shared or shared[key][0] is not tensor:
            shared[key] = (tensor, DTensor.from_local(tensor, mesh, (Replicate(),), run_check=False))
        return (shared[key][1], *inputs[1:])

    return hook


def local_parameters(model: nn.Module) -> None:
    """Make distributed parameters the rank's own, as DistributedDataParallel wants; forwards see what they were."""
    held: dict[nn.Parameter, nn.Parameter] = {}
    places: list[tuple[nn.Module, str, Any]] = []
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                if parameter not in held:
                    held[parameter] = nn.Parameter(parameter.to_local(), requires_grad=parameter.requires_grad)
                places.append((module, name, parameter))
                module._parameters[name] = held[parameter]

    def distribute(*_: Any) -> None:
        made: dict[nn.Parameter, Any] = {}
        for module, name, parameter in places:
            if parameter not in made:
                made[parameter] = DTensor.from_local(
                    held[parameter], parameter.device_mesh, parameter.placements, run_check=False
                )
            module.__dict__[name] = made[parameter]  # an attribute of the instance comes before a parameter

    model.register_forward_pre_hook(distribute)
