"""Watch a training step run, and tell a listener which layer is at work at every moment.

The model itself runs, eagerly, as its user runs it. Hooks on the layers' modules tell where each layer begins in
forward. Autograd numbers the nodes of its graph as forward makes them, so a layer owns a stretch of numbers; backward
takes the nodes in falling order of their numbers, hence layer by layer, and a hook on the first node of each stretch
tells where. A layer whose forward runs again in backward (checkpointing) is at work in backward then.
"""

from __future__ import annotations

import bisect
import contextlib
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd.graph import GradientEdge

from mpsim.errors import MpsimError
from mpsim.workload.layering import Layering, layer_names

__all__ = [
    "BACKWARD",
    "FORWARD",
    "INPUTS",
    "NOTHING",
    "UPDATE",
    "Call",
    "Graph",
    "Listener",
    "Watch",
    "calls_of",
    "taking_over",
]

_MODULE_CALL = nn.Module._call_impl.__code__
_ENGINE_CALL = torch.autograd.graph._engine_run_backward.__code__
FORWARD, INPUTS, BACKWARD, UPDATE, NOTHING = "forward", "backward for inputs", "backward", "update", ""


class Listener(Protocol):
    """What is told of a step as it runs."""

    def at(self, phase: str, layer: int) -> None:
        """A layer begins a pass; what was at work before ends."""

    def graph(self, graph: Graph) -> None:
        """Forward and loss are done; this is their graph."""

    def returned(self, output: Any) -> None:
        """The model returned its output."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a module that is a layer.

    Attributes
    ----------
    name : str
        Of the layer.
    path : str
        Of the module.
    module : torch.nn.Module
        The module.
    earlier : int
        How many autograd nodes before the call belong to it: those of a function, such as a checkpoint, within
        whose forward the module is called.
    """

    name: str
    path: str
    module: Any
    earlier: int = 0


class Graph:
    """The autograd graph of a loss, divided among layers.

    Parameters
    ----------
    roots : sequence of torch.Tensor
        What backward starts from.
    begins : sequence of int
        For each layer the number of its first node, ascending.

    Attributes
    ----------
    heads : dict of int to node
        For each layer that has any the node that backward reaches first.
    input_heads : dict of int to node
        The same where only gradients of what goes between layers are wanted.
    between : set of (node, int)
        Results of nodes that another, later layer reads.
    read_by : set of (int, node, int)
        The same with the layer that reads each.
    leaves : dict of int to list of torch.Tensor
        For each layer the leaves whose gradients it adds to, in the order in which its backward is done with them.

    Examples
    --------
    >>> weight = torch.ones(2, requires_grad=True)
    >>> graph = Graph([(weight * 2).sum()], [0])
    >>> graph.heads[0].name(), len(graph.leaves[0])
    ('SumBackward0', 1)
    """

    def __init__(self, roots: Sequence[Any], begins: Sequence[int]) -> None:
        self.roots = roots
        numbers = _numbers(roots)
        layer = {node: max(0, bisect.bisect_right(begins, number) - 1) for node, number in numbers.items()}
        ordered = sorted(numbers, key=numbers.__getitem__)
        self.heads = {layer[node]: node for node in ordered}
        self.between: set[tuple[Any, int]] = set()
        self.read_by: set[tuple[int, Any, int]] = set()
        self.leaves: dict[int, list[Any]] = {}
        self.input_heads: dict[int, Any] = {}
        needed: set[Any] = set()
        for node in ordered:
            for before, index in node.next_functions:
                if before is None or before not in layer:
                    continue
                if layer[before] != layer[node]:
                    self.between.add((before, index))
                    self.read_by.add((layer[node], before, index))
                if layer[before] != layer[node] or before in needed:
                    needed.add(node)
            if node in needed:
                self.input_heads[layer[node]] = node
        for node in reversed(ordered):
            for before, _ in node.next_functions:
                if hasattr(before, "variable"):
                    found = self.leaves.setdefault(layer[node], [])
                    found[:] = [leaf for leaf in found if leaf is not before.variable]
                    found.append(before.variable)


def _numbers(roots: Sequence[Any]) -> dict[Any, int]:
    """Return every node that a backward visits with its number, leaves left out."""
    found: dict[Any, int] = {}
    waiting = [root.grad_fn for root in roots if root.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node not in found and not hasattr(node, "variable"):
            found[node] = node._sequence_nr()
            waiting.extend(before for before, _ in node.next_functions if before is not None)
    return found


def calls_of(model: nn.Module, step: Callable[[], None], depth: int | str = "auto") -> tuple[Call, ...]:
    """Run a step and return the calls of its layers, in order.

    Raises
    ------
    MpsimError
        No module with parameters is called.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> [call.name for call in calls_of(model, lambda: model(torch.ones(1, 2)).sum().backward())]
    ['0', '2']
    """
    paths = _paths(model)
    stack: list[str] = []
    calls: list[tuple[tuple[str, ...], nn.Module, int]] = []
    running: list[bool] = [True]

    def enter(module: nn.Module, *_: Any) -> None:
        above = f"{stack[-1]}." if stack and stack[-1] else ""
        stack.append(next((path for path in paths[module] if path.startswith(above)), paths[module][0]))
        if running:
            calls.append((tuple(stack), module, _earlier()))

    def backward(original: Callable[..., None], *given: Any, **how: Any) -> None:
        running.clear()
        original(*given, **how)

    with _hooked(paths, enter, lambda *_: stack.pop()), taking_over(backward):
        step()
    layering = Layering(model, [one for one, _, _ in calls], depth)
    layers = [call for call in calls if layering.level(call[0]) == len(call[0]) - 1]
    if not layers:
        scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
        what = "calls none of its modules that have any" if paths else "has none" if not scripted else "is scripted"
        raise MpsimError(
            f"a layer is a module with parameters, and {type(model).__name__} {what}: there is none to place"
        )
    names = layer_names([one[-1] for one, _, _ in layers], model)
    return tuple(
        Call(name, one[-1], module, earlier) for name, (one, module, earlier) in zip(names, layers, strict=True)
    )


class Watch:
    """A step of which a listener is told.

    Parameters
    ----------
    model : torch.nn.Module
        The model that the step runs.
    calls : sequence of Call
        Its layers.
    listener : Listener
        Told in which pass of which layer the step is.
    inputs : bool
        Run backward once more, before the step's own, for the gradients of what goes between layers alone.

    Examples
    --------
    >>> class Said(list):
    ...     def at(self, phase, layer):
    ...         self.append((phase, layer))
    ...     def graph(self, graph):
    ...         pass
    ...     def returned(self, output):
    ...         pass
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> step = lambda: model(torch.ones(1, 2)).sum().backward()
    >>> Watch(model, calls_of(model, step), said := Said()).run(step)
    >>> [one for one in said if one[0]]
    [('forward', 0), ('forward', 1), ('backward', 1), ('backward', 0), ('update', 0)]
    """

    def __init__(self, model: nn.Module, calls: Sequence[Call], listener: Listener, *, inputs: bool = False) -> None:
        self.model, self.calls, self.listener, self.inputs = model, calls, listener, inputs
        self.layers: dict[nn.Module, list[int]] = {}
        for i, call in enumerate(calls):
            self.layers.setdefault(call.module, []).append(i)
        self.phase, self.begins, self.last = FORWARD, list[int](), 0
        self.outer, self.inside = 0, 0  # calls of the model, and of layers, that have not returned
        self.again: list[tuple[int, int]] = []  # layers whose forward ran in backward, and where their nodes begin

    def run(self, step: Callable[[], None]) -> None:
        """Run the step once.

        Raises
        ------
        MpsimError
            It calls other layers than before, or runs no backward, or more than one.
        """
        self.phase, self.begins, self.last, self.outer, self.inside, self.again = FORWARD, [], 0, 0, 0, []
        around = {self.model: None} if self.model not in self.layers else {}
        with (
            _hooked(around, self._enter_model, self._leave_model),
            _hooked(self.layers, self._enter, self._leave),
            taking_over(self._backward),
        ):
            self.listener.at(FORWARD, 0)
            try:
                step()
            finally:
                self.listener.at(NOTHING, 0)
        if self.phase == FORWARD and len(self.begins) < len(self.calls):
            self._other_path("stops there")

    def _enter_model(self, *_: Any) -> None:
        self.outer += 1

    def _leave_model(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.outer -= 1
        if self.phase == FORWARD and not self.outer:
            self.listener.returned(output)

    def _enter(self, module: nn.Module, *_: Any) -> None:
        self.inside += 1
        if self.inside > 1:
            return
        if self.phase != FORWARD:
            if self.phase != UPDATE:
                self._again(module)
            return
        layer = len(self.begins)
        if layer >= len(self.calls) or self.calls[layer].module is not module:
            self._other_path("calls another")
        self.begins.append(torch.autograd._get_sequence_nr() - self.calls[layer].earlier)
        if layer:
            self.listener.at(FORWARD, layer)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.inside -= 1
        if module is self.model and self.phase == FORWARD and not self.inside:
            self.listener.returned(output)

    def _again(self, module: nn.Module) -> None:
        """A layer's forward runs in backward: the call of it that is nearest to what is at work."""
        layer = min(self.layers[module], key=lambda i: (abs(i - self.last), i))
        self.again.append((layer, torch.autograd._get_sequence_nr()))
        self._at(layer)

    def _other_path(self, what: str) -> None:
        layer = min(len(self.begins), len(self.calls) - 1)
        raise MpsimError(
            f"the model takes another path each time it runs: where it called layer {self.calls[layer].name!r} first,"
            f" it {what} in a later step; trace it with what steers it held still (layer drop, a schedule in a counter)"
        )

    def _backward(self, original: Callable[..., None], tensors: Any, *rest: Any, **how: Any) -> None:
        roots = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        if self.phase in (INPUTS, BACKWARD):
            with self._prehooks(self._heads_again(roots)):
                original(tensors, *rest, **how)
            return
        if self.phase == UPDATE:
            raise MpsimError(
                "the step calls backward a second time: give a step of one micro-batch and one backward (how many"
                " micro-batches a step has is the plan's to say; where models train in turn, trace a step of each)"
            )
        if len(self.begins) < len(self.calls):
            self._other_path("stops there")
        self.listener.at(NOTHING, 0)
        graph = Graph(roots, self.begins)
        self.listener.graph(graph)
        if self.inputs:
            gradients = rest[0] if rest else how.get("grad_tensors")
            self._pass(INPUTS, graph.input_heads, lambda: _gradients_between(graph, gradients))
        self._pass(BACKWARD, graph.heads, lambda: original(tensors, *rest, **how))
        self.phase = UPDATE
        self.listener.at(UPDATE, 0)

    def _pass(self, phase: str, heads: dict[int, Any], run: Callable[[], None]) -> None:
        self.phase, self.last = phase, len(self.calls)
        with self._prehooks(heads):
            self._at(len(self.calls) - 1)
            run()
            self.listener.at(NOTHING, 0)

    def _heads_again(self, roots: Sequence[Any]) -> dict[int, Any]:
        """Return the first node of each layer in a graph that was made in backward, as a reentrant checkpoint does."""
        if not self.again:
            return {}
        heads = Graph(roots, [begin for _, begin in self.again]).heads
        return {self.again[i][0]: node for i, node in heads.items()}

    @contextlib.contextmanager
    def _prehooks(self, heads: dict[int, Any]) -> Iterator[None]:
        handles = [node.register_prehook(lambda _, layer=layer: self._at(layer)) for layer, node in heads.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _at(self, layer: int) -> None:
        if layer != self.last:
            self.last = layer
            self.listener.at(self.phase, layer)


def _gradients_between(graph: Graph, gradients: Any) -> None:
    """Compute the gradients of what goes between layers, and none of parameters."""
    edges = [GradientEdge(node, index) for node, index in graph.between]
    given = None if gradients is None else [gradients] if isinstance(gradients, torch.Tensor) else list(gradients)
    if edges:
        torch.autograd.grad(graph.roots, edges, given, retain_graph=True, allow_unused=True)


def _paths(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Return every module with parameters and its paths: a module can stand at several.

    What computes a weight of a module (its parametrizations) is part of that module, and a scripted one, which takes no
    hooks, of what surrounds it.
    """
    found: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        hidden = "parametrizations" in path.split(".") or isinstance(module, torch.jit.ScriptModule)
        if next(module.parameters(), None) is not None and not hidden:
            found.setdefault(module, []).append(path)
    return found


def _earlier() -> int:
    """Return how many autograd nodes ago the outermost function began whose forward we are in, 0 if in none."""
    first = now = torch.autograd._get_sequence_nr()
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_argcount and code.co_varnames[0] != "self":  # that is a module's
            context = frame.f_locals.get(code.co_varnames[0])
            if isinstance(context, torch.autograd.function.BackwardCFunction):
                first = context._sequence_nr()
        frame = frame.f_back  # type: ignore[assignment]
    return now - first


@contextlib.contextmanager
def _hooked(modules: Collection[nn.Module], enter: Callable[..., None], leave: Callable[..., Any]) -> Iterator[None]:
    def before(module: nn.Module, *given: Any) -> None:
        if module in modules:  # a copy of one has its hooks too
            enter(module, *given)

    def after(module: nn.Module, *given: Any) -> None:  # what a hook returns would take the place of the output
        if module in modules:
            leave(module, *given)

    handles = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(before, prepend=True))
        handles.append(module.register_forward_hook(after, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_forward(frame: Any) -> bool:
    """Whether a module's forward is among the callers of a frame, short of a backward that runs."""
    while frame is not None:
        if frame.f_code is _MODULE_CALL:
            return True
        if frame.f_code is _ENGINE_CALL:
            return False
        frame = frame.f_back
    return False


@contextlib.contextmanager
def taking_over(backward: Callable[..., None]) -> Iterator[None]:
    """Let `backward(original, ...)` run in place of ``torch.autograd.backward``, which ``Tensor.backward`` calls.

    One that a module calls in its own forward, as a part of it, stays as it is.
    """
    original = torch.autograd.backward

    def called(*given: Any, **how: Any) -> None:
        if _in_forward(sys._getframe(1)):
            original(*given, **how)
        else:
            backward(original, *given, **how)

    torch.autograd.backward = called
    try:
        yield
    finally:
        torch.autograd.backward = original
