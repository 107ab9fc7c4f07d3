"""Find what a training step of its user's own trains: whatever modules and optimizers run in it."""

from __future__ import annotations

import contextlib
import copy
import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers
from torch.optim.lr_scheduler import LRScheduler
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mpsim.errors import MpsimError
from mpsim.workload.account import memory_of
from mpsim.workload.operators import tensors_of, written_by
from mpsim.workload.state import Restore, generators_kept
from mpsim.workload.step import Step

__all__ = ["discovered"]


@contextlib.contextmanager
def discovered(step: Callable[[Any], Any], batch: Any) -> Iterator[Step]:
    """Run a step once to find what it trains, and yield it; afterwards all that PyTorch knows of is as before.

    That is models and optimizers, schedules of learning rates, gradient scalers, and whatever other tensors the step
    writes into, such as a moving average of the model. What it keeps in plain Python (a counter, a list of losses) has
    gone on.

    Parameters
    ----------
    step : callable
        ``step(batch)`` does forward, loss, backward and update.
    batch : object
        What it is called with.

    Raises
    ------
    MpsimError
        It calls no module with parameters.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> def step(batch):
    ...     model(batch).mean().backward()
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> before = model.weight.tolist()
    >>> with discovered(step, torch.ones(4, 2)) as found:
    ...     found.model is model, found.optimizer is optimizer
    (True, True)
    >>> model.weight.tolist() == before
    True
    """
    found = _Found([leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, torch.Tensor)])
    with generators_kept():
        try:
            with found.watching():
                step(batch)
            found.restore()
            if not found.roots:
                raise MpsimError("the step calls no module with parameters: there is no layer to place")
            yield Step(
                _one(found.roots),
                lambda: _discard(step(batch)),
                _together(found.optimizers),
                own=True,
                updates="+".join(dict.fromkeys(type(one).__name__.lower() for one in found.optimizers)),
                steady=found.steering.restore,
            )
        finally:
            found.restore()


def _discard(result: Any) -> None:
    return None


class _Found:
    """The outermost modules that run, and the optimizers, with their state as it was first seen."""

    def __init__(self, feeds: list[Any]) -> None:
        self.roots: list[nn.Module] = []
        self.optimizers: list[Any] = []
        self._feeds, self._depth = feeds, 0
        self._before: list[Restore] = []
        self._gradients: list[tuple[Any, Any, Any]] = []
        self._states: list[Any] = []
        self.steering = _Steering()
        self._others = _Written()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        handles = [
            modules.register_module_forward_pre_hook(self._enter),
            modules.register_module_forward_hook(self._leave, always_call=True),
            optimizers.register_optimizer_step_pre_hook(self._updates),
        ]
        try:
            with self._others:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def restore(self) -> None:
        for restore in reversed(self._before):
            restore()
        for parameter, gradient, value in self._gradients:
            parameter.grad = gradient
            if gradient is not None:
                gradient.copy_(value)
        for optimizer, state in zip(self.optimizers, self._states, strict=True):
            optimizer.load_state_dict(copy.deepcopy(state))
        self.steering.restore()
        self._others.restore()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._depth += 1
        held = {id(one) for root in self.roots for one in root.modules()}
        if self._depth > 1 or id(module) in held or next(module.parameters(), None) is None:
            return
        inside = {id(one) for one in module.modules()}
        self.roots = [root for root in self.roots if id(root) not in inside] + [module]
        self._before.append(Restore(module, self._feeds))
        self._others.leave((*module.parameters(), *module.buffers(), *self._feeds))
        for parameter in module.parameters():
            gradient = parameter.grad
            self._gradients.append((parameter, gradient, None if gradient is None else gradient.clone()))

    def _leave(self, *_: Any) -> None:
        self._depth -= 1

    def _updates(self, optimizer: Any, *_: Any) -> None:
        if not any(optimizer is one for one in self.optimizers):
            self.optimizers.append(optimizer)
            self._states.append(copy.deepcopy(optimizer.state_dict()))
            self._others.leave(tensors_of([list(state.values()) for state in optimizer.state.values()]))


class _Steering:
    """What steers optimizers from step to step, all there are: schedules of learning rates, gradient scalers."""

    def __init__(self) -> None:
        kinds = (LRScheduler, torch.amp.GradScaler)
        found = [one for one in gc.get_objects() if issubclass(type(one), kinds)]
        self._states = [(one, copy.deepcopy(one.state_dict())) for one in found]

    def restore(self) -> None:
        for one, state in self._states:
            one.load_state_dict(copy.deepcopy(state))


class _Written(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
    """Keeps what stood in each tensor from before that is written into, to put it back."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[int, tuple[Any, Any]] = {}
        self._left = set[int]()  # memory that somebody else puts back
        self._made: dict[int, Any] = {}  # memory that the step itself takes, until it is freed

    def leave(self, tensors: Iterable[Any]) -> None:
        """Somebody else puts these back."""
        self._left.update(storage._cdata for tensor in tensors for storage in memory_of(tensor))

    def restore(self) -> None:
        for storage, value in self._before.values():
            storage.copy_(value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for storage in _storages(written_by(func, args, kwargs)):
            if not any(storage._cdata in known for known in (self._left, self._made, self._before)):
                self._before[storage._cdata] = storage, storage.clone()
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **kwargs)
        for storage in _storages(result):
            if storage._cdata not in given and storage._cdata not in self._made:
                self._made[storage._cdata] = weakref.ref(storage, partial(self._freed, storage._cdata))
        return result

    def _freed(self, number: int, _: Any) -> None:
        self._made.pop(number, None)


def _storages(tree: Any) -> Iterator[Any]:
    return (storage for tensor in tensors_of(tree) for storage in memory_of(tensor))


def _one(roots: list[nn.Module]) -> nn.Module:
    """Return the one module that runs, or one that holds them all, each by its class."""
    if len(roots) == 1:
        return roots[0]
    names = [type(root).__name__ for root in roots]
    return nn.ModuleDict(
        {
            name if names.count(name) == 1 else f"{name}{names[:i].count(name) + 1}": root
            for i, (name, root) in enumerate(zip(names, roots, strict=True))
        }
    )


class _Several:
    """What is asked of an optimizer, of several."""

    def __init__(self, those: list[Any]) -> None:
        self.state = _States(those)


class _States:
    def __init__(self, those: list[Any]) -> None:
        self.those = those

    def get(self, parameter: Any, default: Any) -> Any:
        return next((one.state[parameter] for one in self.those if parameter in one.state), default)


def _together(found: list[Any]) -> Any:
    if not found:
        return None
    return found[0] if len(found) == 1 else _Several(found)
