"""Keep in-place operations from reaching across units.

Inside a unit an operation that changes its input stays as it is: it is what the model does. Where the changed
tensor belongs to another unit it is replaced by the operation that makes a new tensor, and whoever read the changed
one reads the new one: in a split the two live on different devices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from mpsim.emulate.capture.grouping import Group
from mpsim.emulate.capture.refusal import place_of_node
from mpsim.errors import MpsimError

__all__ = ["changes_first_argument", "make_functional_across"]


def make_functional_across(graph: fx.Graph, groups: list[Group]) -> None:
    """Rewrite, in `graph`, the in-place operations whose effect another unit could see.

    Raises
    ------
    MpsimError
        Views of the changed tensor are still read, or the operation has no form that makes a new tensor.
    """
    home = {node: i for i, group in enumerate(groups) for node in group.nodes}
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node in home and changes_first_argument(node):
            _rewrite(node, home, order)


def changes_first_argument(node: Any) -> bool:
    """Whether an operation works in place.

    Examples
    --------
    >>> graph = fx.Graph()
    >>> x = graph.placeholder("x")
    >>> ops = torch.ops.aten
    >>> [changes_first_argument(graph.call_function(one, (x,))) for one in (ops.relu_.default, ops.relu.default)]
    [True, False]
    """
    if not isinstance(node.target, torch._ops.OpOverload) or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    alias = node.target._schema.arguments[0].alias_info
    return alias is not None and bool(alias.is_write)


def _rewrite(node: Any, home: dict[Any, int], order: dict[Any, int]) -> None:
    changed = _origin(node.args[0])
    if changed.op == "get_attr":  # state, such as a count of batches: each unit that reads it holds it
        node.replace_all_uses_with(changed, delete_user_cb=lambda user: user is not node)
        return
    family = _aliases(changed)
    readers = {user for item in family for user in item.users if user is not node and user not in family}
    earlier_elsewhere = any(home.get(user, -1) != home[node] for user in readers if order[user] < order[node])
    if home.get(changed, -1) == home[node] and not earlier_elsewhere:
        return
    first = node.args[0]
    stale = [item for item in family if item is not first and item is not node]
    if any(order[user] > order[node] for item in stale for user in item.users if user is not node):
        raise MpsimError(
            f"{node.target} changes in place a tensor that other layers see through a view{place_of_node(node)}:"
            " use the form that makes a new one"
        )
    node.target = _functional(node)
    first.replace_all_uses_with(node, delete_user_cb=lambda user: order[user] > order[node])


def _origin(node: Any) -> Any:
    """Return the node whose memory this one shares."""
    while (source := _shares(node)) is not None:
        node = source
    return node


def _shares(node: Any) -> Any:
    """Return the input that a node's result is a view of, None if its result is new."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return (
            node.args[0] if getattr(node.target, "__name__", "") == "getitem" and node.op == "call_function" else None
        )
    schema = node.target._schema
    made = [item.alias_info for item in schema.returns if item.alias_info is not None]
    for argument, value in zip(schema.arguments, node.args, strict=False):
        info = argument.alias_info
        if info is not None and any(info.before_set & item.before_set for item in made) and isinstance(value, fx.Node):
            return value
    return None


def _aliases(origin: Any) -> set[Any]:
    """Return `origin` and every view of it."""
    found, waiting = {origin}, [origin]
    while waiting:
        for user in waiting.pop().users:
            if user not in found and _shares(user) in found:
                found.add(user)
                waiting.append(user)
    return found


def _functional(node: Any) -> Any:
    target = node.target
    name = target._schema.name.removeprefix("aten::").removesuffix("_")
    overload = getattr(getattr(torch.ops.aten, name, None), target._overloadname, None)
    if overload is None:
        raise MpsimError(
            f"{target} changes another layer's tensor in place{place_of_node(node)}, and has no form that makes"
            " a new one: write it otherwise"
        )
    return overload
