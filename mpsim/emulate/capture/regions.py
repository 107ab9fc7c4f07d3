"""Cut regions of a mode of their own where layers begin in them.

What a model does under ``torch.no_grad`` or ``torch.autocast`` is one operation of the exported graph, with a body of
its own. A teacher's layers, or all of a model's, may lie in it: the region becomes one for each of them, all in the
same mode.

    no_grad(body: layer 3, layer 4, layer 5)  ──▶  no_grad(layer 3) · no_grad(layer 4) · no_grad(layer 5)
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from mpsim.emulate.capture.grouping import Layers
from mpsim.emulate.capture.inplace import changes_first_argument

__all__ = ["cut_regions"]


def _with_grad_set(enabled: bool, body: Callable[..., Any], *values: Any) -> Any:
    with torch.set_grad_enabled(enabled):
        return body(*values)


def _with_autocast(
    device: str, dtype: Any, enabled: bool, cached: bool | None, body: Callable[..., Any], *values: Any
) -> Any:
    with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cached):
        return body(*values)


# Export's operations, what does the same, and where among its arguments the body stands: what the mode is made of comes
# before it, what the body reads after it. Export's own hide what they do from whoever watches each operation.
_REGIONS = {"wrap_with_set_grad_enabled": (_with_grad_set, 1), "wrap_with_autocast": (_with_autocast, 4)}


@dataclass(slots=True)
class _Stretch:
    """Operations of a region that belong to one layer."""

    stack: Any
    nodes: list[Any] = field(default_factory=list)


def cut_regions(root: fx.GraphModule, layers: Layers) -> None:
    """Replace each region in a graph, those inside of others first, by one for each layer in it."""
    for node in list(root.graph.nodes):
        run, at = _REGIONS.get(getattr(node.target, "__name__", ""), (None, 0))
        if node.op == "call_function" and run is not None:
            body = operator.attrgetter(node.args[at].target)(root)
            cut_regions(body, layers)
            _read_what_is_written(body)
            node.target = run
            _replace(root, node, at, body, _stretches(body, layers))


def _read_what_is_written(body: fx.GraphModule) -> None:
    """Let whoever reads the result of an operation in place read what it changed: state, if it came from outside.

    The two are one tensor, but what a layer makes is sent to the next, and state is held by each that reads it.
    """
    for node in body.graph.nodes:
        if changes_first_argument(node) and node.args[0].op == "placeholder":
            node.replace_all_uses_with(node.args[0], delete_user_cb=lambda user, node=node: user is not node)


def _stretches(body: fx.GraphModule, layers: Layers) -> list[_Stretch]:
    found: list[_Stretch] = []
    latest = None
    for node in body.graph.nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        call = None if node.target is operator.getitem else layers.call_of(node)
        if not found or (call is not None and call != latest):
            found.append(_Stretch(stack=node.meta.get("nn_module_stack")))
            latest = call
        found[-1].nodes.append(node)
    return found


def _replace(root: fx.GraphModule, region: Any, at: int, body: fx.GraphModule, stretches: list[_Stretch]) -> None:
    """Put the stretches where a region stands."""
    holders = [node for node in body.graph.nodes if node.op == "placeholder"]
    outer = dict(zip(holders, region.args[at + 1 :], strict=True))
    (returned,) = next(node for node in body.graph.nodes if node.op == "output").args
    with root.graph.inserting_before(region):
        for i, stretch in enumerate(stretches):
            made, arguments, part = _part(body, stretch, set(returned))
            name = f"{region.name}_part_{i}"
            root.add_submodule(name, part)
            call = root.graph.call_function(
                region.target, (*region.args[:at], root.graph.get_attr(name), *(outer[item] for item in arguments))
            )
            call.meta["nn_module_stack"] = stretch.stack
            outer |= {item: root.graph.call_function(operator.getitem, (call, k)) for k, item in enumerate(made)}
    for user in list(region.users):
        user.replace_all_uses_with(outer[returned[user.args[1]]])
        root.graph.erase_node(user)
    root.graph.erase_node(region)


def _part(body: fx.GraphModule, stretch: _Stretch, returned: set[Any]) -> tuple[list[Any], list[Any], fx.GraphModule]:
    """Return what a stretch makes for others, what it reads of others, and its operations as a module."""
    own = set(stretch.nodes)
    reads = dict.fromkeys(item for node in stretch.nodes for item in node.all_input_nodes if item not in own)
    graph = fx.Graph()
    arguments = [item for item in reads if item.op != "get_attr"]
    copies = {item: graph.placeholder(item.name) for item in arguments}
    copies |= {item: graph.get_attr(item.target) for item in reads if item.op == "get_attr"}
    for node in stretch.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    made = [node for node in stretch.nodes if node in returned or not own.issuperset(node.users)]
    graph.output(tuple(copies[node] for node in made))
    return made, arguments, fx.GraphModule(body, graph)
