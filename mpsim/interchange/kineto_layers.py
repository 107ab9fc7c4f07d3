"""Where a profiled model's layers ran: its modules, or what its author marked, call by call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mpsim.errors import MpsimError
from mpsim.interchange.chrome import Around, Slice
from mpsim.interchange.losses import Losses

__all__ = ["EVALUATE", "Layers", "layers_of"]

EVALUATE = "autograd::engine::evaluate_function: "
_MODULE = "nn.Module: "
_STEP = "ProfilerStep#"
_LARGE = 0.5  # Of the forward passes: with a layer of more, no split is twice as fast.
# Marks that PyTorch makes itself.
_NOT_LAYERS = (
    _STEP, "Optimizer.", "##", "DistributedDataParallel", "FullyShardedDataParallel", "FSDP::", "nccl:", "gloo:",
    "PyTorch Profiler", "Torch-", "TorchDynamo", "Pregraph",
)  # fmt: skip


@dataclass(slots=True, eq=False)
class _Call:
    """A call of a module, and the calls that it made."""

    slice: Slice
    name: str
    parent: _Call | None = None
    children: list[_Call] = field(default_factory=list)


class Layers:
    """The calls of every layer, step by step.

    Attributes
    ----------
    steps : list
        For each step the calls of each layer, by name, in the order in which the layers first ran.
    kinds : dict
        The class of each layer.
    """

    def __init__(self, steps: Sequence[Sequence[_Call]], prefix: int) -> None:
        self.steps: list[dict[str, list[Slice]]] = []
        self.kinds: dict[str, str] = {}
        for calls in steps:
            made: dict[str, list[Slice]] = defaultdict(list)
            for call in calls:
                name = ".".join(_path(call)[prefix:]) or call.name
                self.kinds.setdefault(name, call.name.rpartition("_")[0] or "marked")
                made[name].append(call.slice)
            self.steps.append(dict(made))
        self._layer = {one: name for step in self.steps for name, mine in step.items() for one in mine}
        self._step = {one: i for i, step in enumerate(self.steps) for mine in step.values() for one in mine}
        self._around = Around(self._layer)

    def at(self, other: Slice) -> tuple[int, str] | None:
        """Return the step and the layer in which a slice began."""
        found = self._around.of(other)
        return None if found is None else (self._step[found], self._layer[found])


def layers_of(found: Sequence[Slice], depth: int, path: str, losses: Losses) -> Layers:
    """Return the layers of a model: modules `depth` below the outermost, or marks.

    Raises
    ------
    MpsimError
        The trace has neither.
    """
    # What a checkpoint runs again is part of its backward pass.
    backward = Around(one for one in found if one.name.startswith(EVALUATE))
    modules = [one for one in found if one.category == "python_function" and one.name.startswith(_MODULE)]
    modules = [one for one in modules if backward.of(one) is None]
    if modules:
        return _of_modules(_tree(modules), depth, losses)
    marks = [one for one in found if one.category == "user_annotation" and not one.name.startswith(_NOT_LAYERS)]
    marks = [one for one in marks if backward.of(one) is None]
    if not marks:
        raise MpsimError(
            f"{path} holds no modules and no marks: profile with with_stack=True, or put layers under record_function"
        )
    return _of_marks(_tree(marks), found, depth)


def _tree(found: Sequence[Slice]) -> list[_Call]:
    """Return the calls that none other made."""
    stacks: dict[tuple[str, str], list[_Call]] = defaultdict(list)
    roots: list[_Call] = []
    for one in found:
        stack = stacks[one.thread]
        while stack and one.start_us >= stack[-1].slice.end_us:
            stack.pop()
        call = _Call(one, one.name.removeprefix(_MODULE), stack[-1] if stack else None)
        (stack[-1].children if stack else roots).append(call)
        stack.append(call)
    return roots


def _path(call: _Call) -> list[str]:
    return ([] if call.parent is None else _path(call.parent)) + [call.name]


def _below(call: _Call, depth: int, leaves: set[str]) -> list[_Call]:
    """Return the calls `depth` levels below one, or less where a module has none."""
    if not depth or call.name in leaves:
        return [call]
    return [found for child in call.children for found in _below(child, depth - 1, leaves)]


def _leaves(roots: Sequence[_Call]) -> set[str]:
    """Return the names of modules none of whose calls made others."""
    leaves: set[str] = set()
    inner: set[str] = set()
    todo = list(roots)
    for call in todo:
        (inner if call.children else leaves).add(call.name)
        todo += call.children
    return leaves - inner


def _of_modules(roots: Sequence[_Call], depth: int, losses: Losses) -> Layers:
    """Take the outermost module that took the longest, or what it wraps, for the model; each of its calls is a step."""
    took: dict[str, float] = defaultdict(float)
    for root in roots:
        took[root.name] += root.slice.duration_us
    model = max(took, key=took.__getitem__)
    for name in took:
        if name != model:
            losses.add("modules outside of the model: their times count for no layer", repr(name))
    calls, above = _unwrapped([root for root in roots if root.name == model])
    for name in above:
        losses.add("wrappers around the model: what they do themselves counts for no layer", repr(name))
    layers = [_below(call, depth, _leaves(calls)) for call in calls]
    _note_large(layers, depth, losses)
    return Layers(layers, prefix=1 + len(above))


def _unwrapped(calls: list[_Call]) -> tuple[list[_Call], list[str]]:
    """Return the calls of the model inside what wraps it, and the names of that.

    A wrapper calls one module, once, which calls others: DistributedDataParallel, a compiled module, one's own.
    """
    above: list[str] = []
    while all(len(call.children) == 1 and call.children[0].children for call in calls):
        inside = [call.children[0] for call in calls]
        if len({call.name for call in inside}) > 1:
            break
        above.append(calls[0].name)
        calls = inside
    return calls, above


def _note_large(steps: Sequence[Sequence[_Call]], depth: int, losses: Losses) -> None:
    """Say how a layer that is most of the model could be parted."""
    took: dict[str, float] = defaultdict(float)
    parted = {call.name for step in steps for call in step if call.children}
    for step in steps:
        for call in step:
            took[call.name] += call.slice.duration_us
    largest = max(took, key=took.__getitem__)
    if depth and largest in parted and took[largest] > _LARGE * sum(took.values()):
        share = f"{100 * took[largest] / sum(took.values()):.0f} %"
        losses.add(f"layers inside {largest!r}, {share} of the forward passes: --depth {depth + 1} parts it")


def _of_marks(roots: Sequence[_Call], found: Sequence[Slice], depth: int) -> Layers:
    """Cut marks into steps where the profiler's own stand, or else where the first of them comes again."""
    leaves = _leaves(roots)
    layers = [call for root in roots for call in _below(root, max(depth - 1, 0), leaves)]
    profiled = Around(one for one in found if one.category == "user_annotation" and one.name.startswith(_STEP))
    steps: dict[object, list[_Call]] = defaultdict(list)
    turn = 0
    for call in layers:
        turn += call.name == layers[0].name
        steps[profiled.of(call.slice) or turn].append(call)
    return Layers(list(steps.values()), prefix=0)
