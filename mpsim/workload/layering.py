"""Choose the layers of a model: the modules that a split can place.

A layer is a call of a module with parameters. It begins when the module is called and lasts until the next layer
begins: what runs between (an activation, a pooling, a residual sum) belongs to the layer before it, what runs before
the first layer to the first, and the loss to the last. So the layers are consecutive stretches of a step, in execution
order, and add up to it. A module that is called again is a layer again, named ``name@2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from mpsim.errors import MpsimError

__all__ = ["Layering", "layer_names"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Layering:
    """Which of the modules that are running is a layer.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    calls : iterable of tuple of str
        For each call of a module with parameters, the paths of the modules that run at that moment, outermost first,
        its own last; modules without parameters are left out.
    depth : int or "auto"
        How many modules deep layers lie; ``"auto"`` descends through containers and stacks of blocks, and opens a
        layer that would be the only one.

    Raises
    ------
    MpsimError
        An unknown depth.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> layering = Layering(model, [("",), ("", "0"), ("", "2")])
    >>> layering.level(("", "0")), layering.level(("",))
    (1, None)
    """

    def __init__(self, model: nn.Module, calls: Iterable[tuple[str, ...]], depth: int | str = "auto") -> None:
        if depth != "auto" and not (isinstance(depth, int) and depth >= 0):
            raise MpsimError(f"unknown depth {depth!r}: give 'auto', or a whole number of module levels, 0 or more")
        stacks = set(calls)
        self.inner = {path for stack in stacks for path in stack[:-1]}
        self.depth = depth
        self.opened = _opened(model, stacks, self.inner) if depth == "auto" else {}

    def level(self, stack: Sequence[str]) -> int | None:
        """Return the position in a stack of running modules of the one that is a layer, None if none is."""
        if isinstance(self.depth, int):
            if len(stack) > self.depth:
                return self.depth
            return len(stack) - 1 if stack and stack[-1] not in self.inner else None
        return next((i for i, path in enumerate(stack) if not self.opened[path]), None)


def layer_names(paths: Iterable[str], model: nn.Module) -> list[str]:
    """Return a name for each call of a module, in order: its path, or its class for the model itself.

    Examples
    --------
    >>> layer_names(["0", "1", "0", ""], nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))
    ['0', '1', '0@2', 'Sequential']
    """
    calls: dict[str, int] = {}
    names = []
    for path in paths:
        calls[path] = calls.get(path, 0) + 1
        name = path or type(model).__name__
        names.append(name if calls[path] == 1 else f"{name}@{calls[path]}")
    return names


def _opened(model: nn.Module, stacks: set[tuple[str, ...]], inner: set[str]) -> dict[str, bool]:
    """Return for each module that was called whether to look inside it for layers."""
    opened = {path: _opens(model, path, inner) for path in {path for stack in stacks for path in stack}}
    while True:
        layers = {stack[i] for stack in stacks for i in [_first_closed(stack, opened)] if i is not None}
        if len(layers) != 1 or not layers <= inner:
            return opened
        opened[layers.pop()] = True


def _first_closed(stack: tuple[str, ...], opened: dict[str, bool]) -> int | None:
    return next((i for i, path in enumerate(stack) if not opened[path]), None)


def _opens(model: nn.Module, path: str, inner: set[str]) -> bool:
    if path not in inner:
        return False
    module = model.get_submodule(path)
    return path == "" or type(module) in _CONTAINERS or any(_is_stack(item) for item in module.modules())


def _is_stack(module: nn.Module) -> bool:
    """Whether a container repeats one class of block, as a transformer's layers or a ResNet's stages do."""
    if type(module) not in _CONTAINERS:
        return False
    blocks = [type(item) for item in module.children() if type(item) not in _CONTAINERS and _is_composite(item)]
    return len(set(blocks)) < len(blocks)


def _is_composite(module: nn.Module) -> bool:
    return any(next(child.parameters(), None) is not None for child in module.children())
