"""From a model to its units: export the training step, divide its graph, make each layer a module of its own.

The graph is that of ``torch.export`` (training form: ATen operations with autograd, each with the modules it was
called in) of forward and loss together, so that the loss is the last unit's work. Every unit becomes a
``torch.fx.GraphModule`` that shares the model's own parameters; running the units one after another is the model.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mpsim.emulate.capture.export import export_step
from mpsim.emulate.capture.form import Form
from mpsim.emulate.capture.grouping import Group, Layers, group_nodes
from mpsim.emulate.capture.inplace import make_functional_across
from mpsim.emulate.capture.refusal import place_of_node
from mpsim.emulate.capture.regions import cut_regions
from mpsim.errors import MpsimError
from mpsim.workload.example import Example
from mpsim.workload.feeds import feed_name

__all__ = ["Cut", "Unit", "capture"]

_NO_LOSS = "the loss does not depend on the model: check loss= and the batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A piece of a model that runs alone.

    Attributes
    ----------
    name, kind : str
        The module's path in the model and its class.
    module : torch.fx.GraphModule
        Takes the values named in `inputs`, returns a tuple of those named in `outputs`.
    inputs, outputs : tuple of str
        Names of values, unique in the cut.
    parameters : tuple of str
        The model's parameters that it reads, by the model's own names (one name for a tied parameter).
    buffers : tuple of str
        The model's buffers that it reads or writes.

    Examples
    --------
    >>> Unit(name="fc1", kind="Linear", module=None, inputs=("x",), outputs=("linear",)).outputs
    ('linear',)
    """

    name: str
    kind: str
    module: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A model's training step as units that run one after another.

    Attributes
    ----------
    units : tuple of Unit
        In execution order; one whose operations nobody reads is empty.
    feeds : tuple of str
        The values fed to the model, in the order of :func:`mpsim.workload.example.flat_inputs`; ``""`` for what no
        unit reads.
    target : tuple of str
        Those of the feeds that only the loss reads.
    outputs : tuple of str
        The values that make up the model's output.
    loss : str
        The value that backward starts from; empty in a cut of the forward alone.
    leaves : tuple of (str, object)
        What the model returns, flattened: the name of a value, or an empty name and a constant.
    form : Form
        How the leaves make up what the model returns.
    moved : tuple of str
        The parameters and buffers that a forward moves, as far as that is known; see `mpsim.emulate.capture.check`.

    Examples
    --------
    >>> Cut(units=(), feeds=("input",), outputs=("linear",), loss="mean").loss
    'mean'
    """

    units: tuple[Unit, ...]
    feeds: tuple[str, ...]
    target: tuple[str, ...] = ()
    outputs: tuple[str, ...]
    loss: str
    leaves: tuple[tuple[str, Any], ...] = ()
    form: Form = Form()
    moved: tuple[str, ...] = ()


def capture(example: Example, depth: int | str = "auto", *, with_loss: bool = True) -> Cut:
    """Export an example's training step, or its forward alone, and divide it into units.

    Parameters
    ----------
    example : Example
        The model in training mode, a batch and the loss.
    depth : int or "auto"
        See :class:`mpsim.workload.layering.Layering`.
    with_loss : bool
        False for the forward alone.

    Returns
    -------
    Cut
        Units that share the model's parameters.

    Raises
    ------
    MpsimError
        The model cannot be exported, or a unit changes in place what another unit made and still needs.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> cut = capture(Example(model=model, inputs=(torch.ones(3, 4),)))
    >>> [(unit.name, unit.inputs, unit.outputs) for unit in cut.units]
    [('0', ('input',), ('relu',)), ('2', ('relu',), ('linear_1', 'mean'))]
    """
    exported = export_step(example, with_loss=with_loss)
    graph = exported.graph
    names = _name_feeds(graph, example)
    layers = Layers.of_graph(graph, example.model, exported.calls, depth)
    cut_regions(graph, layers)
    groups = group_nodes(graph.graph, layers)
    _refuse_transforms(groups, example.model)
    make_functional_across(graph.graph, groups)
    output = next(node for node in graph.graph.nodes if node.op == "output")
    first, *returned = pytree.tree_leaves(output.args)
    loss = first if with_loss else None
    if with_loss and not isinstance(loss, fx.Node):
        raise MpsimError(_NO_LOSS)
    results = [item for item in dict.fromkeys(returned) if _is_made(item) and item is not loss]
    units = _units(graph, groups, example.model, names, (*((loss,) if with_loss else ()), *results))
    feeds = tuple(names.get(node, "") for node in graph.graph.nodes if node.op == "placeholder")
    known = {name for unit in units for name in unit.outputs}
    if loss is not None and loss.name not in known:
        raise MpsimError(_NO_LOSS)
    return Cut(
        units=units,
        feeds=feeds,
        target=_targets(feeds, example),
        outputs=tuple(item.name for item in results if item.name in known),
        loss=loss.name if loss is not None else "",
        leaves=tuple(_leaf(item, names, graph) for item in returned),
        form=exported.form,
    )


def _refuse_transforms(groups: list[Group], model: nn.Module) -> None:
    """Refuse to cut inside of ``torch.vmap`` and its like: what one layer opens another would have to close."""
    inside = [(i, node) for i, group in enumerate(groups) for node in group.nodes if _is_of_a_transform(node)]
    if len({i for i, _ in inside}) > 1:
        place = next(filter(None, (place_of_node(node) for _, node in inside)), "")
        raise MpsimError(
            f"{type(model).__name__} cannot be split: several layers are called in one transform of torch.func, such as"
            f" vmap{place}: call them without it, or each in one of its own"
        )


def _is_of_a_transform(node: Any) -> bool:
    return str(getattr(node.target, "__module__", "")).startswith("torch._functorch")


def _is_made(item: Any) -> bool:
    """Whether the graph makes a result, rather than passing on what it was given."""
    return isinstance(item, fx.Node) and item.op not in ("placeholder", "get_attr")


def _leaf(item: Any, names: dict[Any, str], graph: fx.GraphModule) -> tuple[str, Any]:
    if not isinstance(item, fx.Node):
        return "", item
    if item.op == "get_attr":  # a model may return a parameter
        return "", operator.attrgetter(item.target)(graph)
    return names.get(item, item.name), None


def _name_feeds(graph: fx.GraphModule, example: Example) -> dict[Any, str]:
    """Return a short name for each placeholder that holds a tensor: input, target, or the keyword's own."""
    paths, _ = pytree.tree_flatten_with_path((tuple(example.inputs), dict(example.keywords), example.target))
    holders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if len(paths) != len(holders):
        raise MpsimError(f"the exported graph has {len(holders)} inputs, the batch has {len(paths)} values")
    names = {}
    for node, (path, value) in zip(holders, paths, strict=True):
        if isinstance(value, torch.Tensor):
            names[node] = feed_name(path, len(example.inputs))
    return names


def _targets(feeds: tuple[str, ...], example: Example) -> tuple[str, ...]:
    """Return the feeds that are labels: the example's target, or a keyword that says so."""
    return tuple(name for name in feeds if name.split(".")[0] in ("target", "labels", "label"))


def _units(
    graph: fx.GraphModule, groups: list[Group], model: nn.Module, names: dict[Any, str], results: tuple[Any, ...]
) -> tuple[Unit, ...]:
    home = {node: i for i, group in enumerate(groups) for node in group.nodes}
    wanted = set(results)
    for node in home:
        wanted.update(item for item in node.all_input_nodes if item in home and home[item] != home[node])
    state = _State(graph, model)
    return tuple(_unit(group, wanted, names, state) for group in groups)


class _State:
    """What the graph reads by name: parameters, buffers, constants, and the bodies of regions without gradient."""

    def __init__(self, graph: fx.GraphModule, model: nn.Module) -> None:
        self.graph = graph
        self.parameters = {id(item): name for name, item in model.named_parameters()}
        self.buffers = {id(item): name for name, item in model.named_buffers()}

    def __getitem__(self, target: str) -> Any:
        return operator.attrgetter(target)(self.graph)


def _unit(group: Group, wanted: set[Any], names: dict[Any, str], state: _State) -> Unit:
    """Copy a group's nodes into a graph of their own."""
    own = set(group.nodes)
    reads = dict.fromkeys(item for node in group.nodes for item in node.all_input_nodes if item not in own)
    graph, copies, attributes = fx.Graph(), {}, {}
    outer = [item for item in reads if item.op != "get_attr"]
    for item in outer:
        copies[item] = graph.placeholder(item.name)
    for item in reads:
        if item.op == "get_attr":
            copies[item] = graph.get_attr(item.target)
            attributes[item.target] = state[item.target]
    for node in group.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    leaving = [node for node in group.nodes if node in wanted]
    graph.output(tuple(copies[node] for node in leaving))
    held = [id(value) for value in attributes.values()]
    return Unit(
        name=group.name,
        kind=group.kind,
        module=fx.GraphModule(attributes, graph, class_name=group.kind),
        inputs=tuple(names.get(item, item.name) for item in outer),
        outputs=tuple(node.name for node in leaving),
        parameters=tuple(dict.fromkeys(state.parameters[item] for item in held if item in state.parameters)),
        buffers=tuple(dict.fromkeys(state.buffers[item] for item in held if item in state.buffers)),
    )
