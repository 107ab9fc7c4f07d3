"""Which layer each operation of an exported graph belongs to, by the rule that :mod:`mpsim.workload.layering` has."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from mpsim.errors import MpsimError
from mpsim.workload.layering import Layering, layer_names

__all__ = ["Group", "Layers", "group_nodes"]

_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "_assert_async")
_PREFIX = "model"  # the path of the model in the exported module
Call = tuple[str, ...]
Stack = tuple[str, ...]


@dataclass(slots=True)
class Group:
    """The nodes of one layer, in graph order, while they are being gathered.

    Examples
    --------
    >>> Group(name="fc1", kind="Linear").nodes
    []
    """

    name: str
    kind: str
    nodes: list[Any] = field(default_factory=list)


class Layers:
    """The layers of a model as it was called.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    calls : sequence of tuple of str
        Of its modules with parameters, as :class:`mpsim.workload.layering.Layering` takes them; as they were watched,
        which says of those too whose operations export drops as nobody reads them.
    depth : int or "auto"
        How many modules deep layers lie.

    Attributes
    ----------
    paths : list of str
        Of the module of each layer, in execution order.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> Layers(model, [("",), ("", "0"), ("", "2")]).paths
    ['0', '2']
    """

    def __init__(self, model: nn.Module, calls: Sequence[Stack], depth: int | str = "auto") -> None:
        self.model = model
        self.layering = Layering(model, calls, depth)
        self.paths = [stack[-1] for stack in calls if self.layering.level(stack) == len(stack) - 1]
        if not self.paths:
            raise MpsimError("the model has no parameters: there is no layer to place")
        self._names = _Names(model)

    @classmethod
    def of_graph(cls, graph: fx.GraphModule, model: nn.Module, calls: Sequence[Stack], depth: int | str) -> Layers:
        """Return the layers by the calls that were watched, or by those that a graph tells of where it tells of more.

        Who watches does not see into a module that is compiled; the graph has no calls whose results nobody reads.
        """
        told = list(dict.fromkeys(stack for node in _nodes(graph) for stack in _Names(model).calls_around(node)))
        plain = list(dict.fromkeys(tuple(path for _, path in stack) for stack in told))
        seen = set(calls) >= set(plain)
        return cls(model, calls if seen else [tuple(path for _, path in stack) for stack in told], depth)

    def groups(self) -> list[Group]:
        """Return a group without nodes for each layer."""
        names = layer_names(self.paths, self.model)
        kinds = [type(self.model.get_submodule(path)).__name__ for path in self.paths]
        return [Group(name=name, kind=kind) for name, kind in zip(names, kinds, strict=True)]

    def call_of(self, node: Any) -> tuple[Call, str] | None:
        """Return the layer's call that a node was made in, and the layer's path; None outside of all."""
        stack = self._names.around(node)
        level = self.layering.level([path for _, path in stack])
        if level is None:
            return None
        return tuple(key for key, _ in stack[: level + 1]), stack[level][1]


class _Names:
    """The modules of a model by the names that an exported graph has for them."""

    def __init__(self, model: nn.Module) -> None:
        first = {id(item): path for path, item in model.named_modules() if next(item.parameters(), None) is not None}
        everywhere = model.named_modules(remove_duplicate=False)  # a module in two places is one
        self._known = {path: first[id(module)] for path, module in everywhere if id(module) in first}

    def around(self, node: Any) -> tuple[tuple[str, str], ...]:
        """Return (call, path) of the modules with parameters around a node, outermost first."""
        found = [(key, _below(path)) for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items()]
        return tuple((key, self._known[path]) for key, path in found if path in self._known)

    def calls_around(self, node: Any) -> list[tuple[tuple[str, str], ...]]:
        """Return the calls that a node tells of, outermost first, each with those around it."""
        stack = self.around(node)
        return [stack[: level + 1] for level in range(len(stack))]


def _nodes(root: fx.GraphModule) -> Iterator[Any]:
    """Yield the operations of a graph in order, those of the bodies of regions where they stand."""
    for node in root.graph.nodes:
        for item in node.all_input_nodes if node.op == "call_function" else ():
            if item.op == "get_attr" and isinstance(body := operator.attrgetter(item.target)(root), fx.GraphModule):
                yield from _nodes(body)
        if node.op == "call_function" and node.target is not operator.getitem:
            yield node


def _below(path: str) -> str | None:
    """Return a path in the exported module as one in the model."""
    if path == _PREFIX:
        return ""
    return path.removeprefix(_PREFIX + ".").split("@")[0] if path.startswith(_PREFIX + ".") else None


def group_nodes(graph: fx.Graph, layers: Layers) -> list[Group]:
    """Return the layers of an exported graph with their nodes, in execution order.

    A node that was made in a layer's call opens or continues that layer; any other belongs to the layer that was
    opened last, or to the first. A layer whose operations nobody reads has no nodes: export drops them.

    Parameters
    ----------
    graph : torch.fx.Graph
        Of the training intermediate representation, parameters as ``get_attr``.
    layers : Layers
        Of the model.
    """
    groups = layers.groups()
    home: dict[Any, int] = {}
    opened: dict[Call, int] = {}
    now, following = 0, 0
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr", "output") or _is_check(node):
            continue
        source = _goes_with(node)
        if source in home:
            home[node] = home[source]
            continue
        call = layers.call_of(node)
        if call is not None:
            if call[0] not in opened:
                opened[call[0]] = layers.paths.index(call[1], following)
                following = opened[call[0]] + 1
            now = max(now, opened[call[0]])
        home[node] = now
    for node, i in home.items():
        groups[i].nodes.append(node)
    return groups


def _is_check(node: Any) -> bool:
    """Whether a node only checks; export leaves such nodes, training has none."""
    return node.op == "call_function" and getattr(node.target, "__name__", "").split(".")[0] in _CHECKS


def _goes_with(node: Any) -> Any:
    """Return the node whose layer another joins wherever it stands, as it is no work of the model's.

    An item is taken of several results where they were made. A buffer that forward sets to a new tensor is written
    at the end of the graph, outside of the model: training does not do that at all.
    """
    if node.target is operator.getitem:
        return node.args[0]
    writes_state = node.target is torch.ops.aten.copy_.default and node.args[0].op == "get_attr"
    paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return node.args[1] if writes_state and all(_below(path) is None for path in paths) else None
