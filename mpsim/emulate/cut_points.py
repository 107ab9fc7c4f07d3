"""Whether a model's own forward can be cut between layers, and what goes over each cut: found on fake tensors.

A stage of an exported script runs the forward of the whole model with the layers before it skipped
(`mpsim.emulate.script.stages`). That is the model's own work if what is read behind a cut comes from before it by one
tensor alone, the first argument of the first layer behind. Here each stage is run so, and whatever comes of a skipped
layer or of its parameters is followed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mpsim.errors import MpsimError, did_you_mean
from mpsim.workload.example import Example
from mpsim.workload.fake import fake_mode_of
from mpsim.workload.shapes import without_logs

__all__ = ["CutPoints", "cut_points"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPoints:
    """What stages of a model need to know of each other.

    Attributes
    ----------
    skipped : dict of str to object
        What each layer returns that is skipped by some stage, where that is not its first argument: a type and a
        shape, or a list of such.
    sent : list of (str, tuple of int)
        The type and the shape of what each stage returns.
    """

    skipped: dict[str, Any] = field(default_factory=dict)
    sent: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)


def cut_points(example: Example, stages: Sequence[Sequence[str]]) -> CutPoints:
    """Run each stage of a model on fake tensors, and return what goes between them.

    Parameters
    ----------
    example : Example
        Of fake tensors, one micro-batch.
    stages : sequence of sequence of str
        The paths of the layers of each stage, in the order in which they run.

    Raises
    ------
    MpsimError
        A layer that is no module of its own, or something that crosses a cut beside one tensor.

    Examples
    --------
    >>> from mpsim.workload.fake import fake_example
    >>> from mpsim.workload.model_source import Source
    >>> model = lambda n: Example(model=nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), inputs=(torch.ones(n, 2),))
    >>> cut_points(fake_example(Source(name="two", build=model), 4), [["0"], ["1"]]).sent
    [('float32', (4, 3)), ('float32', (4, 1))]
    """
    layers = [path for stage in stages for path in stage]
    modules = {path: _module(example.model, path, layers) for path in layers}
    with fake_mode_of(example), without_logs(), torch.no_grad():
        read, returned, output = _watched(example, modules)
        for i in range(1, len(stages)):
            _check(example, modules, stages, i, returned)
    if not isinstance(output, torch.Tensor):
        raise MpsimError(
            f"{type(example.model).__name__} returns a {type(output).__name__}, torch's pipelines return a tensor:"
            " wrap the model so that it returns its logits, with loss= beside it"
        )
    last = [path for stage in stages[:-1] for path in stage]
    forms = {path: _form(returned[path], read[path], path) for path in last}
    sent = [_named(read[stage[0]]) for stage in stages[1:]] + [_named(output)]
    return CutPoints(skipped={path: form for path, form in forms.items() if form != "input"}, sent=sent)


def _module(model: nn.Module, path: str, layers: Sequence[str]) -> nn.Module:
    """Return the module that a layer is."""
    modules = dict(model.named_modules())
    outer = next((one for one in layers if one != path and path.startswith(f"{one}.")), None)
    if path not in modules or not path or outer:
        why = f"inside of layer {outer!r}" if outer else f"no module of {type(model).__name__}'s"
        raise MpsimError(
            f"layer {path!r} is {why}{did_you_mean(path, modules) if not outer else ''}: torch's stages begin at"
            " modules, trace the model with another --depth"
        )
    return modules[path]


def _run(example: Example) -> Any:
    return example.model(*example.inputs, **example.keywords)


def _watched(example: Example, modules: dict[str, nn.Module]) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Return what each layer reads first and returns, and what the model returns."""
    read: dict[str, Any] = {}
    returned: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for path, module in modules.items():

            def before(_: Any, args: Any, keywords: Any, path: str = path) -> None:
                if path in read:
                    raise MpsimError(f"layer {path!r} runs twice in a forward: torch's stages run each once")
                read[path] = _first(args, keywords)

            def after(_: Any, args: Any, result: Any, path: str = path) -> None:
                returned[path] = result

            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after).remove)
        output = _run(example)
    for path in modules:
        if not isinstance(read.get(path), torch.Tensor):
            raise MpsimError(f"layer {path!r} reads no tensor first: torch's stages cannot begin or be skipped there")
    return read, returned, output


def _first(args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return args[0] if args else next((one for one in keywords.values() if isinstance(one, torch.Tensor)), None)


class _Followed(TorchDispatchMode):  # type: ignore[misc]
    """Follows what comes of some tensors; the types and shapes of these alone are not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, torch.Tensor] = {}

    def add(self, tree: Any) -> None:
        """Follow the tensors of a tree."""
        self.found.update({id(one): one for one in pytree.tree_leaves(tree) if isinstance(one, torch.Tensor)})

    def holds(self, tree: Any) -> bool:
        """Whether a tree has a tensor that is followed."""
        return any(id(one) in self.found for one in pytree.tree_leaves(tree))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if not name.endswith("_like") and not name.startswith("new_") and self.holds((args, kwargs)):
            self.add(result)
        return result


class _ReachedError(Exception):
    """Ends a forward where the next stage begins."""


def _check(
    example: Example, modules: dict[str, nn.Module], stages: Sequence[Sequence[str]], index: int, returned: Any
) -> None:
    """Refuse a stage that reads of what is before it more than one tensor, or not at its first layer."""
    own, first = set(stages[index]), stages[index][0]
    after = stages[index + 1][0] if index + 1 < len(stages) else ""
    followed = _Followed()
    kept = {id(one) for path in own for one in modules[path].parameters()}
    for path in modules.keys() - own:
        followed.add([one for one in modules[path].parameters() if id(one) not in kept])

    def enter(_: Any, args: Any, keywords: Any) -> Any:
        value = _first(args, keywords)
        if not followed.holds(value):
            raise MpsimError(_refusal(index, first, "does not read what the layer before it returns"))
        received = value.clone()
        followed.found.pop(id(received), None)
        if args:
            args = (received, *args[1:])
        else:
            keywords = {name: received if one is value else one for name, one in keywords.items()}
        if followed.holds((args, keywords)):
            raise MpsimError(_refusal(index, first, "reads more than one tensor of what comes before"))
        return args, keywords

    def inside(path: str) -> Any:
        def check(_: Any, args: Any, keywords: Any) -> None:
            if path != first and followed.holds((args, keywords)):
                raise MpsimError(_refusal(index, first, f"is not alone: {path} reads more of what comes before"))

        return check

    def leave(_: Any, args: Any, keywords: Any) -> None:
        if followed.holds(_first(args, keywords)):
            raise MpsimError(_refusal(index, first, "is not alone: what goes on has more of what comes before"))
        raise _ReachedError

    with contextlib.ExitStack() as stack:
        for path, module in modules.items():
            if path not in own and path != after:
                stack.enter_context(_skipping(module, returned[path], followed))
            if path in own:
                stack.callback(module.register_forward_pre_hook(inside(path), with_kwargs=True).remove)
        stack.callback(modules[first].register_forward_pre_hook(enter, with_kwargs=True, prepend=True).remove)
        if after:
            stack.callback(modules[after].register_forward_pre_hook(leave, with_kwargs=True, prepend=True).remove)
        with contextlib.suppress(_ReachedError), followed:
            output = _run(example)
            if followed.holds(output):
                raise MpsimError(_refusal(index, first, "is not alone: the output has more of what comes before"))


@contextlib.contextmanager
def _skipping(module: nn.Module, returned: Any, followed: _Followed) -> Iterator[None]:
    """Let a module return what it did before, anew, and follow that."""

    def stand_in(*_: Any, **__: Any) -> Any:
        copy = pytree.tree_map(lambda one: torch.zeros_like(one) if isinstance(one, torch.Tensor) else one, returned)
        followed.add(copy)
        return copy

    module.forward = stand_in
    try:
        yield
    finally:
        del module.forward


def _refusal(stage: int, first: str, why: str) -> str:
    return (
        f"stage {stage} begins at {first!r}, which {why}: torch's stages hand on one tensor, so begin it elsewhere"
        " (stages=…), or trace the model less deep (--depth)"
    )


def _named(value: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    return str(value.dtype).removeprefix("torch."), tuple(value.shape)


def _form(value: Any, first: torch.Tensor, path: str) -> Any:
    """Return what stands for a layer's result, as scripts write it."""
    if isinstance(value, torch.Tensor):
        return "input" if _named(value) == _named(first) else _named(value)
    if value is None:
        return None
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return [_form(one, first, path) for one in value]
    raise MpsimError(f"layer {path!r} returns a {type(value).__name__}: torch's stages skip layers that return tensors")
