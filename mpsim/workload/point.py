"""One point of a trace: one micro-batch size and one tensor shard, captured, accounted for and timed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from mpsim.errors import MpsimError
from mpsim.workload.account import Account, account
from mpsim.workload.clock import clock_for
from mpsim.workload.example import Example, on_device
from mpsim.workload.export import default_loss
from mpsim.workload.graph import Cut, capture, flat_inputs
from mpsim.workload.measure import Measured, measure
from mpsim.workload.model import Fidelity, Parameter, ShardCollective
from mpsim.workload.run import forward
from mpsim.workload.update import Updates, owned_parameters

__all__ = ["Point", "describe", "measure_point", "state_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a trace found at one micro-batch size and one tensor shard.

    Attributes
    ----------
    cut : Cut
        The units, without their modules.
    parameters : mapping of str to Parameter
        Every parameter that a unit reads.
    frozen : frozenset of str
        Those that are not trained.
    buffer_bytes : mapping of str to int
        Every buffer.
    account : Account
        Saved bytes, FLOPs, shapes, gradients.
    measured : Measured
        Times; for an analytical point the roofline's.
    optimizer_bytes : tuple of int
        What the optimizer keeps, for each unit.
    collectives : tuple of tuple of ShardCollective
        For each unit.

    Examples
    --------
    >>> cut = Cut(units=(), feeds=(), outputs=(), loss="")
    >>> Point(microbatch=2, cut=cut, account=Account()).tensor_parallel
    1
    """

    microbatch: int
    tensor_parallel: int = 1
    cut: Cut
    parameters: Mapping[str, Parameter] | None = None
    frozen: frozenset[str] = frozenset()
    buffer_bytes: Mapping[str, int] | None = None
    account: Account
    measured: Measured | None = None
    optimizer_bytes: tuple[int, ...] = ()
    collectives: tuple[tuple[ShardCollective, ...], ...] = ()
    fidelity: Fidelity = Fidelity.MEASURED


def measure_point(
    example: Example,
    microbatch: int,
    *,
    device: str,
    depth: int | str,
    optimizer: str,
    threads: int,
    repeats: int,
    warmup: int,
) -> Point:
    """Capture, account for and time one example on a device.

    Raises
    ------
    MpsimError
        The model cannot be exported, its graph does not compute what the model does, or its loss is not finite.
    """
    example = on_device(example, device)
    with _kept(example.model):
        cut = capture(example, depth)
        parameters, buffers = state_of(example)
        feeds = dict(zip(cut.feeds, flat_inputs(example), strict=True))
        feeds.pop("", None)
        _check_same(example, cut, feeds)
        found = account(cut, feeds, parameters, buffers)
        updates = Updates(optimizer, owned_parameters(cut), parameters)
        clock = clock_for(torch.device(device).type, threads)
        measured = measure(example, cut, feeds, parameters, updates, clock, repeats=repeats, warmup=max(1, warmup))
        kept = tuple(updates.state_bytes(i) for i in range(len(cut.units)))
        for parameter in parameters.values():
            parameter.grad = None
    return replace(describe(example, cut, microbatch, found), measured=measured, optimizer_bytes=kept)


def describe(example: Example, cut: Cut, microbatch: int, found: Account) -> Point:
    """Return a point without times, holding no tensor of the model.

    Examples
    --------
    >>> example = Example(model=torch.nn.Linear(4, 2), inputs=(torch.ones(3, 4),))
    >>> describe(example, capture(example), 3, Account()).parameters["bias"].bytes
    8
    """
    parameters, buffers = state_of(example)
    return Point(
        microbatch=microbatch,
        cut=replace(cut, units=tuple(replace(unit, module=None) for unit in cut.units)),
        parameters={name: _parameter(name, value) for name, value in parameters.items()},
        frozen=frozenset(name for name, value in parameters.items() if not value.requires_grad),
        buffer_bytes={name: value.nbytes for name, value in buffers.items()},
        account=found,
    )


def _parameter(name: str, value: Any) -> Parameter:
    return Parameter(name=name, shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch."))


def state_of(example: Example) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model's parameters and buffers by name, each tied one once.

    Examples
    --------
    >>> parameters, buffers = state_of(Example(model=torch.nn.BatchNorm1d(2), inputs=()))
    >>> list(parameters), list(buffers)
    (['weight', 'bias'], ['running_mean', 'running_var', 'num_batches_tracked'])
    """
    return dict(example.model.named_parameters()), dict(example.model.named_buffers())


@contextlib.contextmanager
def _kept(model: torch.nn.Module) -> Iterator[None]:
    """Leave a model as it was found: mode, running statistics, gradients; the generator of random numbers too."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        if not model.training:
            model.train()
        for parameter, _ in gradients:
            parameter.grad = None
        with torch.random.fork_rng():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _check_same(example: Example, cut: Cut, feeds: Mapping[str, Any]) -> None:
    """Refuse a graph that does not compute the model's loss: its times would be another model's."""

    def whole() -> float:
        output = example.model(*example.inputs, **example.keywords)
        return float((example.loss or default_loss)(output, example.target))

    def layered() -> float:
        values = dict(feeds)
        for unit in cut.units:
            forward(unit, values)
        return float(values[cut.loss])

    expected, found = _from_one_seed(whole), _from_one_seed(layered)
    same = math.isclose(expected, found, rel_tol=1e-2, abs_tol=1e-4)
    if math.isfinite(expected) and not same and not _draws_random_numbers(cut):
        raise MpsimError(
            f"the exported graph of {type(example.model).__name__} gives loss {found:.6g}, the model {expected:.6g}:"
            " its forward takes another path when exported (a test of torch.compiler.is_compiling?)"
        )


def _from_one_seed(run: Callable[[], float]) -> float:
    torch.manual_seed(0)
    with torch.no_grad():
        return run()


def _draws_random_numbers(cut: Cut) -> bool:
    """Whether any operation draws random numbers: in another order they give another loss."""
    tags = [getattr(node.target, "tags", ()) for unit in cut.units for node in unit.module.graph.nodes]
    return any(torch.Tag.nondeterministic_seeded in item for item in tags)
