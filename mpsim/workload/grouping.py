"""Choose the units of an exported graph: the modules that a split can place, and which unit each operation joins.

A unit is a module with parameters. What has none (an activation, a pooling, a dropout, or a function called in a
forward) is no layer: it joins the unit that made the latest of its inputs, or, if it reads no unit's output, the first
unit that reads it. As a module call is one unbroken run of the graph, the units so made are in execution order and
without a cycle. A module that is called again is a unit again, named ``name@2``.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mpsim.errors import MpsimError

__all__ = ["Group", "group_nodes"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "_assert_async")
Stack = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Group:
    """The nodes of one unit, in graph order, while they are being gathered.

    Examples
    --------
    >>> Group(name="fc1", kind="Linear").nodes
    []
    """

    name: str
    kind: str
    nodes: list[Any] = field(default_factory=list)


def group_nodes(graph: torch.fx.Graph, model: nn.Module, prefix: str, depth: int | str = "auto") -> list[Group]:
    """Return the units of an exported graph with their nodes, in execution order.

    Parameters
    ----------
    graph : torch.fx.Graph
        Of the training intermediate representation, parameters as ``get_attr``.
    model : torch.nn.Module
        The model whose modules the graph names.
    prefix : str
        The path of `model` in the exported module.
    depth : int or "auto"
        How many modules deep units lie; ``"auto"`` descends through containers and stacks of blocks.

    Raises
    ------
    MpsimError
        An unknown depth, or a model without any parameters.
    """
    if depth != "auto" and not (isinstance(depth, int) and depth >= 0):
        raise MpsimError(f"unknown depth {depth!r}: give 'auto', or a whole number of module levels, 0 or more")
    tree = _Tree(graph, model, prefix)
    choice = tree.automatic() if depth == "auto" else {}
    groups: list[Group] = []
    home: dict[Any, int] = {}
    calls: dict[Stack, int] = {}
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr", "output") or _is_check(node):
            continue
        call = tree.unit(tree.stack(node), depth, choice)
        if call is not None and node.target is not operator.getitem:
            if call not in calls:
                calls[call] = len(groups)
                groups.append(_open(call, model, groups))
            _settle(node, calls[call], home)
        else:
            made = [home[item] for item in node.all_input_nodes if item in home]
            if made:
                _settle(node, max(made), home)
    if not groups:
        raise MpsimError("the model has no parameters: there is no layer to place")
    for node in graph.nodes:
        if node.op == "output":
            _settle_inputs(node, len(groups) - 1, home)
    for node in graph.nodes:
        if node in home:
            groups[home[node]].nodes.append(node)
    return groups


def _open(call: Stack, model: nn.Module, groups: list[Group]) -> Group:
    path = call[-1][1]
    again = sum(group.name.split("@")[0] == path for group in groups)
    kind = type(model.get_submodule(path)).__name__
    return Group(name=(path or kind) + (f"@{again + 1}" if again else ""), kind=kind)


def _is_check(node: Any) -> bool:
    """Whether a node only checks; export leaves such nodes, training has none."""
    return node.op == "call_function" and getattr(node.target, "__name__", "").split(".")[0] in _CHECKS


def _settle(node: Any, unit: int, home: dict[Any, int]) -> None:
    home[node] = unit
    _settle_inputs(node, unit, home)


def _settle_inputs(node: Any, unit: int, home: dict[Any, int]) -> None:
    """Bring along what no unit has claimed: masks and positions join the first unit that reads them."""
    waiting = [item for item in node.all_input_nodes if item not in home]
    while waiting:
        item = waiting.pop()
        if item in home or item.op in ("placeholder", "get_attr"):
            continue
        home[item] = unit
        waiting.extend(item.all_input_nodes)


class _Tree:
    """The modules that the graph's operations were called in."""

    def __init__(self, graph: torch.fx.Graph, model: nn.Module, prefix: str) -> None:
        self.model, self.prefix = model, prefix
        self.parametric = {path for path, module in model.named_modules(remove_duplicate=False) if _holds(module)}
        self.inner: set[str] = set()
        for node in graph.nodes:
            self.inner.update(path for _, path in self.stack(node)[:-1])

    def stack(self, node: Any) -> Stack:
        """Return (call, path) of the modules with parameters around a node, outermost first."""
        found = []
        for call, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            if path != self.prefix and not path.startswith(self.prefix + "."):
                continue
            path = path[len(self.prefix) + 1 :].split("@")[0]
            if path in self.parametric:
                found.append((call, path))
        return tuple(found)

    def unit(self, stack: Stack, depth: int | str, descended: dict[str, bool]) -> Stack | None:
        """Return the stack down to the unit that a node belongs to by its place, None if no unit holds it."""
        if isinstance(depth, int):
            if len(stack) > depth:
                return stack[: depth + 1]
            return stack if stack and stack[-1][1] not in self.inner else None
        for level, (_, path) in enumerate(stack):
            if not descended[path]:
                return stack[: level + 1]
        return None

    def automatic(self) -> dict[str, bool]:
        """Return for each module whether to look inside it for units; one unit alone is opened further."""
        descended = {path: self._opens(path) for path in self.parametric}
        while True:
            units = [
                path
                for path in self.parametric
                if not descended[path] and all(descended[up] for up in self._above(path))
            ]
            if len(units) != 1 or units[0] not in self.inner:
                return descended
            descended[units[0]] = True

    def _above(self, path: str) -> list[str]:
        parts = path.split(".") if path else []
        above = [".".join(parts[:i]) for i in range(len(parts))]
        return [item for item in above if item in self.parametric]

    def _opens(self, path: str) -> bool:
        if path not in self.inner:
            return False
        module = self.model.get_submodule(path)
        return path == "" or type(module) in _CONTAINERS or any(_is_stack(item) for item in module.modules())


def _holds(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_stack(module: nn.Module) -> bool:
    """Whether a container repeats one class of block, as a transformer's layers or a ResNet's stages do."""
    if type(module) not in _CONTAINERS:
        return False
    blocks = [type(item) for item in module.children() if type(item) not in _CONTAINERS and _is_composite(item)]
    return len(set(blocks)) < len(blocks)


def _is_composite(module: nn.Module) -> bool:
    return any(_holds(child) for child in module.children())
