"""One point of a trace: one micro-batch size and one split, watched, judged and timed."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from mpsim.errors import MpsimError
from mpsim.workload.account import Account, LayerAccount, Value
from mpsim.workload.clock import clock_for
from mpsim.workload.holdings import held_by, owners
from mpsim.workload.judge import PlainStep, differences, judging
from mpsim.workload.layers import Fidelity, Parameter, Samples, ShardCollective
from mpsim.workload.measure import Repetition, measure, samples_of
from mpsim.workload.model import Precision, StepCheck
from mpsim.workload.roofline import Roofline
from mpsim.workload.split import WHOLE, Split
from mpsim.workload.state import from_one_seed, put_back
from mpsim.workload.step import Step
from mpsim.workload.trust import doubted
from mpsim.workload.update import OPTIMIZERS, shares, state_bytes, update_rates
from mpsim.workload.watch import Call, Watch, calls_of

__all__ = ["Point", "described", "measured_point", "unread_note"]


_REGIONS = ("cond", "while_loop", "scan", "associative_scan", "map")  # operators that take functions
_MORE = 2  # times that repetitions are added to those asked for


@dataclass(slots=True, kw_only=True)
class Point:
    """What a trace found at one micro-batch size and one split.

    Attributes
    ----------
    split : Split
        Among whom the layers are shared.
    experts : frozenset of str
        Parameters of which each of the ranks that share experts has its own.
    names, kinds, paths : list of str
        Of the layers: names, and classes and paths of their modules.
    parameters : dict of str to Parameter
        All of the model's.
    held, owned : list of list of str
        For each layer the parameters that it holds, and those of them that it updates.
    buffer_bytes : list of int
        For each layer.
    accounts : list of LayerAccount
        What each layer keeps and computes.
    values : list of Value
        What goes between the layers, in and out.
    samples, host, wall : list of Samples
        Times by the clock that counts, of the thread that launches, by the wall clock; the latter two may be empty.
    optimizer_bytes : list of int
        What the optimizer keeps, for each layer.
    compute : str
        The type in which most FLOPs are done; empty if there are none.

    Examples
    --------
    >>> Point(microbatch=2, names=["a"], kinds=["Linear"]).split.text
    'tp=1'
    """

    microbatch: int
    split: Split = WHOLE
    experts: frozenset[str] = frozenset()
    names: list[str]
    kinds: list[str]
    paths: list[str] = field(default_factory=list)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    held: list[list[str]] = field(default_factory=list)
    owned: list[list[str]] = field(default_factory=list)
    buffer_bytes: list[int] = field(default_factory=list)
    accounts: list[LayerAccount] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    samples: list[Samples] = field(default_factory=list)
    host: list[Samples] = field(default_factory=list)
    wall: list[Samples] = field(default_factory=list)
    check: StepCheck | None = None
    optimizer_bytes: list[int] = field(default_factory=list)
    collectives: list[list[ShardCollective]] = field(default_factory=list)
    partial: frozenset[str] = frozenset()
    fidelity: Fidelity = Fidelity.MEASURED
    precision: Precision = Precision()
    compute: str = ""
    device: str = "given"
    clock: str = "given"
    optimizer: str = ""
    notes: list[str] = field(default_factory=list)


def described(calls: Sequence[Call], account: Account, model: nn.Module, microbatch: int) -> Point:
    """Return a point without times: what an account found, and which layer holds what.

    Examples
    --------
    >>> model = nn.Linear(4, 2)
    >>> account = Account(1, dict(model.named_parameters()), {}, {})
    >>> described([Call("Linear", "", model)], account, model, 3).held
    [['weight', 'bias']]
    """
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    paths = [call.path for call in calls]
    held = held_by(parameters, [a.parameters for a in account.layers], [a.gradients for a in account.layers], paths)
    buffered = owners(held_by(buffers, [a.buffers for a in account.layers], [[] for _ in calls], paths))
    point = Point(
        microbatch=microbatch,
        names=[call.name for call in calls],
        kinds=[type(call.module).__name__ for call in calls],
        paths=paths,
        parameters={name: _parameter(name, value) for name, value in parameters.items()},
        held=held,
        owned=owners(held),
        buffer_bytes=[sum(_nbytes(buffers[name]) for name in names) for names in buffered],
        accounts=account.layers,
        values=account.values,
    )
    if (note := unread_note(point)) is not None:
        point.notes.append(note)
    if account.strangers:
        count, size = len(account.strangers), sum(account.strangers.values())
        point.notes.append(
            f"{count} parameter{'s' * (count > 1)} of {size} bytes that the step trains are not the model's, as where a"
            " loss has its own: they are in no layer; make the loss a module of the model"
        )
    for name in account.dropped:
        point.notes.append(f"{name} in the model's output is no tensor: it was dropped, and goes to no other layer")
    return point


def _parameter(name: str, value: Any) -> Parameter:
    return Parameter(name=name, shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch."))


def _nbytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def unread_note(point: Point) -> str | None:
    """Return a sentence of the parameters that no layer reads or makes gradients of, None where there are none.

    Examples
    --------
    >>> weight = Parameter(name="weight", shape=(2, 3))
    >>> unread_note(Point(microbatch=1, names=["a"], kinds=["Linear"], parameters={"weight": weight}))
    '1 parameter of 24 bytes not read in the step: weight'
    """
    read = {name for layer in point.accounts for name in (*layer.parameters, *layer.gradients)}
    unread = [name for name in point.parameters if name not in read]
    if not unread:
        return None
    size = sum(point.parameters[name].bytes for name in unread)
    more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
    return (
        f"{len(unread)} parameter{'s' * (len(unread) > 1)} of {size} bytes not read in the step:"
        f" {', '.join(unread[:3])}{more}"
    )


def measured_point(
    step: Step,
    feeds: Mapping[str, Any],
    microbatch: int,
    *,
    depth: int | str,
    optimizer: str,
    threads: int,
    repeats: int,
    warmup: int,
    each: Callable[[], None] = lambda: None,
) -> Point:
    """Watch, judge and time a step.

    Parameters
    ----------
    step : Step
        On the device where it is measured; its model is given back as it was found.
    feeds : mapping of str to torch.Tensor
        What the model is fed, by name.
    microbatch : int
        Samples in it.
    depth : int or "auto"
        How many modules deep layers lie.
    optimizer : str
        Whose update is timed; a step of its user's own has its own.
    threads, repeats, warmup : int
        Compute threads, repetitions kept, and rounds before them. Where the layers then miss the whole step by more
        than 5 %, as a burst of other work on the machine makes them, as many again are added, twice at most.
    each : callable
        Called after each round.

    Raises
    ------
    MpsimError
        There is no layer, the loss is not finite, or the model takes another path each time.
    """
    model = step.model
    with put_back(model, feeds.values()) as restore:
        if not step.own and not model.training:
            model.train()
        if _is_lazy(model):
            step()
            _drop_gradients(model)
        calls, plain = _plain(step, depth)
        restore()
        account, compute = _accounted(step, calls, feeds)
        restore()
        point = described(calls, account, model, microbatch)
        point.compute = compute
        if step.own and step.optimizer is None:
            point.notes.append(
                "no optimizer of PyTorch's ran in the step: none of its state is counted, and its update is whatever"
                " ran after backward"
            )
        parameters = dict(model.named_parameters())
        trained = [parameters[name] for names in point.owned for name in names if parameters[name].requires_grad]
        if not step.own and trained:
            step.optimizer = OPTIMIZERS[optimizer](trained)
        device = trained[0].device.type if trained else next(model.parameters()).device.type
        clock = clock_for(device, threads)
        accumulating = {
            i: [parameters[name] for name in names if name in plain.gradient_norms]
            for i, names in enumerate(point.owned)
        }

        def again() -> None:
            restore.again()
            step.steady()
            _drop_gradients(model)  # that a step left: its backward makes new ones
            from_one_seed()

        again()
        inputs = _can_repeat(step, calls, point)
        rounds = measure(
            step, calls, clock, accumulating, repeats=repeats, warmup=max(0, warmup - 1), inputs=inputs, again=again,
            each=each,
        )  # fmt: skip
        for _ in range(_MORE):
            if not doubted(_check(rounds, clock, microbatch)):
                break
            rounds += measure(step, calls, clock, accumulating, repeats=repeats, warmup=0, inputs=inputs, again=again)
        _times(point, rounds, step, optimizer, clock, inputs)
        point.clock = clock.names[0]
        point.optimizer = step.updates if step.own else optimizer
        point.check = replace(_check(rounds, clock, microbatch), differences=differences(plain, account))
        for parameter in parameters.values():
            parameter.grad = None
    return point


def _check(rounds: Sequence[Repetition], clock: Any, microbatch: int) -> StepCheck:
    return StepCheck(
        microbatch=microbatch,
        whole_s=tuple(_digits(one.whole_s) for one in rounds),
        layers_s=tuple(_digits(one.layers_s(clock.two)) for one in rounds),
    )


def _digits(seconds: float) -> float:
    return float(f"{seconds:.4g}")


def _is_lazy(model: nn.Module) -> bool:
    """Whether there are modules that have yet to learn their sizes, as they do in their first step."""
    return any(nn.parameter.is_lazy(item) for item in (*model.parameters(), *model.buffers()))


def _plain(step: Step, depth: int | str) -> tuple[tuple[Call, ...], PlainStep]:
    """Run a plain step: it tells the layers, and judges."""
    model = step.model
    step.steady()
    from_one_seed()
    with _causes(), judging(dict(model.named_parameters()), dict(model.named_buffers())) as plain:
        calls = calls_of(model, step, depth)
    if step.own and not plain.gradient_norms:
        raise MpsimError("the step left no gradient: it calls no backward, or its backward reaches no parameter")
    if not step.own and plain.gradient_norms and not math.isfinite(plain.loss):
        raise MpsimError(f"the loss of {type(model).__name__} is {plain.loss}: give a batch and a loss that are finite")
    _drop_gradients(model)
    return calls, plain


def _accounted(step: Step, calls: Sequence[Call], feeds: Mapping[str, Any]) -> tuple[Account, str]:
    """Return an account of a step, and the type in which it does most of its FLOPs."""
    model, counter = step.model, Roofline()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    account = Account(len(calls), parameters, buffers, feeds, lambda: counter.flops)
    step.steady()
    from_one_seed()
    with _causes(), account, counter:
        Watch(model, calls, account).run(step)
    _drop_gradients(model)
    return account, counter.compute


@contextlib.contextmanager
def _causes() -> Iterator[None]:
    """Name what cannot be watched, where PyTorch says so in words of its own machinery."""
    try:
        yield
    except Exception as error:  # whatever that raises
        if "saved tensor hooks" in str(error):
            raise MpsimError(
                f"{str(error).splitlines()[0]} A trace learns through such hooks what is kept for backward: take the"
                " derivative by torch.autograd.grad(..., create_graph=True) instead"
            ) from error
        files = {Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)}
        regions = [file.stem for file in files if file.parent.name == "_higher_order_ops" and file.stem in _REGIONS]
        if regions:
            raise MpsimError(
                f"torch.{regions[0]} cannot be watched ({type(error).__name__} in PyTorch): Python's own if, while and"
                " for can, so write that in its place"
            ) from error
        raise


def _drop_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _can_repeat(step: Step, calls: Sequence[Call], point: Point) -> bool:
    """Whether backward can run twice over one graph; a reentrant checkpoint's cannot."""
    try:
        from_one_seed()
        Watch(step.model, calls, _Deaf(), inputs=True).run(step)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        point.notes.append(f"backward could not be timed for inputs alone, and is given to them whole: {reason[:160]}")
        _drop_gradients(step.model)
        return False
    return True


class _Deaf:
    """A listener that does nothing."""

    def at(self, phase: str, layer: int) -> None: ...

    def graph(self, graph: Any) -> None: ...

    def returned(self, output: Any) -> None: ...


def _times(point: Point, rounds: list[Repetition], step: Step, optimizer: str, clock: Any, inputs: bool) -> None:
    """Give a point its samples by each clock, and the bytes that the optimizer keeps."""
    parameters = dict(step.model.named_parameters())
    owned = [[parameters[name] for name in names if parameters[name].requires_grad] for names in point.owned]
    sizes = [(len(items), sum(item.nbytes for item in items)) for items in owned]
    if step.optimizer is None:
        rates = [(0.0, 1.0), (1.0, 0.0)] if clock.two else [(0.0, 1.0)] * len(clock.names)
        point.optimizer_bytes = [0 for _ in owned]
    elif step.own:
        rates = [(0.0, 1.0), (1.0, 0.0)] if clock.two else [(0.0, 1.0)] * len(clock.names)
        point.optimizer_bytes = [state_bytes(step.optimizer, items) for items in owned]
    else:
        point.optimizer_bytes = [state_bytes(step.optimizer, items) for items in owned]
        rates = update_rates(optimizer, step.optimizer, clock)
    lists = [samples_of(rounds, len(owned), i, shares(sizes, rates[i]), inputs) for i in range(len(clock.names))]
    point.samples = lists[0]
    if clock.two:
        point.host = lists[1]
    elif len(lists) > 1:
        point.wall = lists[1]
