"""Trace: measure a real PyTorch model's training step, layer by layer, into a workload."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.workload.allocator import keep_freed_memory
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.model_source import Source
from mpsim.workload.precision import precision as precision_named
from mpsim.workload.rounds import Rounds
from mpsim.workload.source import source_of
from mpsim.workload.split import WHOLE, Split, axes_of, check_split, split_of, split_text

if TYPE_CHECKING:
    import torch

    from mpsim.workload.example import Example
    from mpsim.workload.model import Precision, Tensor, Workload
    from mpsim.workload.own_step import StepSource
    from mpsim.workload.point import Point

__all__ = ["build", "trace"]


@checked
def trace(
    model: torch.nn.Module | Callable[[Any], Any] | Source | str | Any,
    batch: Any = None,
    *,
    name: str | None = None,
    microbatches: Sequence[int] | None = None,
    tensor: Sequence[int] = (1,),
    splits: Sequence[Split | int | str] = (),
    imbalance: float | None = None,
    context: str = "all-gather",
    regather: bool = False,
    depth: int | str = "auto",
    repeats: int = 7,
    warmup: int = 2,
    optimizer: str = "adamw",
    precision: str | None = None,
    threads: int = 1,
    device: str | None = None,
    target: Any = None,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    tensor_parallel: Mapping[str, str] | None = None,
    dataset_samples: int = 0,
    analytical: DeviceSpec | str | None = None,
    progress: bool = True,
) -> Workload:
    """Measure a model's training step on this machine, layer by layer.

    The model runs as it is, eagerly: forward, loss, backward and update, unwatched and watched in turn. Everything is
    given back as it was found: parameters, buffers, gradients, modes, generators of random numbers, optimizers.

    Parameters
    ----------
    model : torch.nn.Module, callable, Source or str
        A module; a factory ``f(batch_size)`` that returns an Example, ``(model, inputs)``, ``(model, inputs, target)``
        or ``(model, inputs, target, loss)``; a training step of one's own, ``step(batch)``, which does forward, loss,
        backward and update; a zoo name, ``package.module:factory`` or ``hf:PATH``.
    batch : object
        With a module: its arguments, nested in any way, some of whose samples are taken for other micro-batches.
        With a training step: an iterable of batches, such as a DataLoader; the first is taken.
        Otherwise the number of samples, None for the model's default.
    name : str
        The workload's name.
    microbatches : sequence of int
        Micro-batch sizes to measure; the batch's own if not given.
    tensor : sequence of int
        Tensor-parallel sizes to measure, one of them 1.
    splits : sequence of Split, int or str
        Other splits to measure, such as ``"tp=2,sequence"``.
    imbalance : float
        Where ranks share experts, the tokens that the busiest gets, in means; by default 1, or the example's own.
    context : str
        How ranks that share sequences (cp) share attention: ``all-gather``, ``ring`` or ``ulysses``.
    regather : bool
        Whether tensor-parallel ranks that share sequences keep their parts alone and gather these again in backward, as
        Megatron-LM does, or keep what they gathered, as PyTorch does.
    depth : int or "auto"
        How many modules deep the layers lie (see :class:`mpsim.workload.layering.Layering`).
    repeats, warmup : int
        Repetitions kept, and rounds before them that are not. Where the layers miss the step by more than 5 %, as many
        again are added, twice at most.
    optimizer : str
        ``adamw``, ``adam``, ``momentum``, ``sgd`` or ``sparse-adam``; a training step has its own.
    precision : str
        ``fp32``, ``tf32``, ``bf16``, ``fp16``, ``bf16-mixed`` or ``fp16-mixed``, and with `analytical` ``fp8-mixed``,
        ``mxfp8-mixed`` or ``nvfp4-mixed``; by default as the model is.
    threads : int
        Compute threads on a CPU. With one, times are this thread's processor time, which other programs do not
        disturb; with more, the other threads' work is not on that clock and times are wall times.
    device : str
        Such as ``"cuda"``; CUDA where there is one, else the CPU. A training step runs where its model is.
    target, loss
        With a module: labels, nested in any way, and ``loss(output, target)``.
    tensor_parallel : mapping of str to str
        With a module: see :class:`Example`.
    dataset_samples : int
        Samples in one epoch.
    analytical : DeviceSpec or str
        Do not run: cost every operation by this device's roofline, or by that of a device of the catalog. For models
        too large for the device.
    progress : bool
        Whether a bar shows how far it has come, in a terminal or a notebook, once it has taken two seconds.

    Returns
    -------
    Workload
        Raw samples of every layer; ``checks`` has the sum of layers against the plain step, and what else differs.
        Ctrl-C ends with the points that are whole, and says so in its notes.

    Raises
    ------
    MpsimError
        The model does not run, cannot be sharded, does not fit the device, or its loss is not finite.

    Examples
    --------
    >>> import torch
    >>> mlp = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> workload = trace(mlp, torch.ones(4, 8), microbatches=(2, 4), repeats=2)
    >>> [layer.name for layer in workload.layers], workload.layers[0].shard().gradient_bytes
    (['0', '2'], 576)
    """
    _need_torch()
    types = precision_named(precision) if precision is not None else None
    spec = None if analytical is None else DeviceSpec.of(analytical, precision or "")
    shards = _asked_splits(tensor, splits)
    source: Source | StepSource
    if _is_own_step(model, batch):
        source = _own_source(model, batch, microbatches, name, shards, types, spec)
        default, where = source.samples, "its own device"
    else:
        example = {"target": target, "loss": loss, "tensor_parallel": tensor_parallel or {}}
        source = source_of(model, batch, example, name, _only(microbatches))
        source = replace(source, name=name or source.name, build=_unbalanced(source.build, imbalance))
        default, where = source.default_batch, _device(device)
    sizes = tuple(dict.fromkeys(microbatches or (default,)))
    _check_request(sizes, shards, repeats, warmup, threads)
    shards = tuple(sorted(shards, key=lambda one: one != WHOLE))  # whole layers first: Ctrl-C leaves no trace without
    rounds = Rounds(source.name, [(size, split) for split in shards for size in sizes], repeats + max(0, warmup - 1))
    how = {"depth": depth, "optimizer": optimizer, "threads": threads, "repeats": repeats, "warmup": warmup}
    shared: dict[str, Any] = {"context": context, "regather": regather}
    _check_shared(shards, imbalance, context)
    if regather:
        _check_regathers(shards, types)
    if spec is not None:
        point = _analytical(source, spec, types, depth, optimizer, microbatches=sizes, **shared)
    elif isinstance(source, Source):
        _check_at_first(source, min(sizes), shards, where, optimizer, types, context)
        point = _measuring(source, where, types, shared, each=rounds.one, **how)
    else:
        point = _measuring_own(source, each=rounds.one, **how)
    with _threads(threads), keep_freed_memory(), rounds if progress else rounds.unseen():
        points = _whole_points(point, rounds)
    reference = _reference(points, default)
    tensors = _tensors(source, points, reference)
    return _workload(source, points, tensors, reference, threads, dataset_samples, spec)


def _asked_splits(tensor: Sequence[int], splits: Sequence[Split | int | str]) -> tuple[Split, ...]:
    """Return the splits to measure, each once."""
    others = [split_text(one) if isinstance(one, str) else split_of(one) for one in splits]
    return tuple(dict.fromkeys([*(Split(tp=size) for size in tensor), *others]))


def _unbalanced(build: Callable[[int], Example], imbalance: float | None) -> Callable[[int], Example]:
    """Return what builds examples of which the busiest rank of experts gets so many means of tokens."""
    return build if imbalance is None else lambda size: replace(build(size), imbalance=imbalance)


def _check_shared(shards: Sequence[Split], imbalance: float | None, context: str) -> None:
    """Refuse what is said of ranks of which no split has any, and an imbalance that no ranks can have."""
    from mpsim.workload.context_parallel import METHODS, check_method

    check_method(context)
    if context != METHODS[0] and all(split.cp == 1 for split in shards):
        raise MpsimError(f"context={context} is of ranks that share sequences: trace a split such as cp=2 too")
    if imbalance is None:
        return
    sharing = [split.ep for split in shards if split.ep > 1]
    if not sharing:
        raise MpsimError(f"imbalance={imbalance:g} is of ranks that share experts: trace a split such as ep=2 too")
    if imbalance > min(sharing):
        raise MpsimError(
            f"imbalance is {imbalance:g}: of ep={min(sharing)} ranks the busiest gets all tokens at {min(sharing)}"
            " times the mean: give no more"
        )


def _check_regathers(shards: Sequence[Split], types: Precision | None) -> None:
    if not any(split.sequence for split in shards):
        raise MpsimError("regather is of ranks that share a sequence: trace a split such as tp=2,sequence too")
    if types is not None and types.compute != types.parameters:
        raise MpsimError(
            f"regather is of one type, {types.name} keeps what is gathered in {types.compute} and gathers it in"
            f" {types.parameters}: give a precision such as bf16, or leave regather out"
        )


def _is_own_step(model: Any, batch: Any) -> bool:
    """Whether a callable comes with batches to call it with, and not with a number of samples."""
    import torch

    plain = isinstance(model, str | Source | torch.nn.Module | type) or not callable(model)
    return not plain and batch is not None and not isinstance(batch, int | float) and isinstance(batch, Iterable)


def _own_source(
    step: Any, loader: Any, microbatches: Sequence[int] | None, name: str | None, shards: Sequence[Split],
    types: Precision | None, analytical: DeviceSpec | None,
) -> StepSource:  # fmt: skip
    from mpsim.workload.own_step import step_source

    asked = {"tensor": tuple(shards) != (WHOLE,), "precision": types is not None, "analytical": analytical is not None}
    for what, given in asked.items():
        if given:
            raise MpsimError(f"{what} was asked of a training step of your own, which runs as it is: give its model")
    return step_source(step, loader, microbatches=microbatches, name=name)


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        raise MpsimError("tracing a model needs PyTorch, which is not installed: pip install 'mpsim[trace]'") from None


def _only(microbatches: Sequence[int] | None) -> int | None:
    """Return the one micro-batch size that was asked for: what the batch holds, where nothing else says."""
    return microbatches[0] if microbatches is not None and len(microbatches) == 1 else None


def _check_request(sizes: Sequence[int], shards: Sequence[Split], repeats: int, warmup: int, threads: int) -> None:
    for what, values in (("micro-batch", sizes), ("tensor-parallel size", [split.tp for split in shards])):
        for value in values:
            if value < 1:
                raise MpsimError(f"{what} is {value}, expected 1 or more")
    for split in shards:
        check_split(split)
    if WHOLE not in shards:
        asked = ",".join(str(split.tp) for split in shards if split == Split(tp=split.tp))
        raise MpsimError(f"tensor-parallel sizes {asked} lack 1: the whole layer is measured too")
    if repeats < 1 or warmup < 0 or threads < 1:
        raise MpsimError(f"repeats {repeats}, warmup {warmup}, threads {threads}: expected at least 1, 0 and 1")


def _device(device: str | None) -> str:
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise MpsimError(f"unknown device {device!r}: give 'cpu', 'cuda' or 'cuda:1'") from None
    if kind not in ("cpu", "cuda"):
        raise MpsimError(f"device {device!r} has no clock here: give 'cpu' or 'cuda'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise MpsimError(f"device {device!r} was asked for, PyTorch finds no CUDA device: trace on the CPU")
    return device


def _whole_points(point: Callable[[int, Split], Point], rounds: Rounds) -> list[Point]:
    """Return all points, or where Ctrl-C ends it those that are whole, so far as they make a workload."""
    points: list[Point] = []
    for size, split in rounds.points:
        rounds.at(size, split)
        try:
            points.append(point(size, split))
        except KeyboardInterrupt:
            if not any(one.split == WHOLE for one in points):
                raise
            missing = len(rounds.points) - len(points)
            points[0].notes.append(f"interrupted: {missing} of {len(rounds.points)} points are missing")
            break
    return points


def _reference(points: Sequence[Point], default: int) -> int:
    """Return the micro-batch at which tensors are described: one at which every shard was measured."""
    sizes: dict[Split, set[int]] = {}
    for point in points:
        sizes.setdefault(point.split, set()).add(point.microbatch)
    common = set.intersection(*sizes.values())
    return default if default in common else max(common)


def _analytical(
    source: Source | StepSource,
    spec: DeviceSpec,
    types: Precision | None,
    depth: int | str,
    optimizer: str,
    **shared: Any,
) -> Callable[[int, Split], Point]:
    from mpsim.workload.analytical import Rooflines

    assert isinstance(source, Source)
    rooflines = Rooflines(source, spec, types, depth=depth, optimizer=optimizer, **shared)
    return lambda size, split: _explained(
        f"{source.name} at micro-batch {size}, {split.text} cannot be costed",
        lambda _: rooflines.point(size, split),
    )


def _measuring(
    source: Source, where: str, types: Precision | None, shared: Mapping[str, Any], **how: Any
) -> Callable[[int, Split], Point]:
    """Return what measures a point of a model."""
    from mpsim.workload.casting import as_found, cast, check_runs, computing, loss_scale, precision_of, products
    from mpsim.workload.example import on_device
    from mpsim.workload.feeds import feeds_of
    from mpsim.workload.machine import device_name
    from mpsim.workload.point import measured_point
    from mpsim.workload.routing import routing_noted
    from mpsim.workload.sharding import sharded
    from mpsim.workload.step import step_of
    from mpsim.workload.wrappers import eagerly, unwrapped

    if types is not None:
        check_runs(types, where)

    def measured(example: Example, size: int) -> Point:
        step = step_of(example, lambda: computing(types, where), loss_scale(types))
        return measured_point(step, feeds_of(example), size, **how)

    def point(size: int, split: Split, running: list[Any]) -> Point:
        example = build(source, size)
        model, notes = unwrapped(example.model)
        running.append(model)
        with as_found(model), eagerly(), products(types):
            example = on_device(replace(example, model=model), where)
            example = cast(example, types) if types is not None else example
            if split == WHOLE:
                routed: list[str] = []
                with routing_noted(model, routed):
                    found = measured(example, size)
                found.notes += routed
            else:
                computed = partial(computing, types, where)
                found = sharded(example, split, lambda part: measured(part, size), computed, **shared)
            found.precision = types or precision_of(model, found.compute)
        found.device = device_name(where)
        found.notes[:0] = notes
        return found

    return lambda size, split: _explained(
        f"{source.name} at micro-batch {size}, {split.text} failed on {where}",
        lambda running: point(size, split, running),
    )


def _measuring_own(source: StepSource, **how: Any) -> Callable[[int, Split], Point]:
    """Return what measures a point of a training step of its user's own."""
    from mpsim.workload.casting import precision_of
    from mpsim.workload.discover import discovered
    from mpsim.workload.example import Example
    from mpsim.workload.feeds import feeds_of
    from mpsim.workload.machine import device_name
    from mpsim.workload.point import measured_point
    from mpsim.workload.wrappers import eagerly

    def point(size: int, running: list[Any]) -> Point:
        batch = source.batch_of(size)
        several = isinstance(batch, tuple | list)
        feeds = feeds_of(Example(model=None, inputs=tuple(batch) if several else (batch,)))
        with eagerly(), discovered(source.step, batch) as step:
            running.append(step.model)
            found = measured_point(step, feeds, size, **how)
            found.precision = precision_of(step.model, found.compute)
            parameter = next(step.model.parameters())
            found.device = device_name(str(parameter.device))
        return found

    what = f"{source.name} at micro-batch"
    return lambda size, _: _explained(f"{what} {size} failed", lambda running: point(size, running))


def _explained(what: str, make: Callable[[list[Any]], Point]) -> Point:
    """Make a point, or say in one line where in the user's model it failed, and why; `make` notes the model."""
    from mpsim.workload.refusal import cause_of

    running: list[Any] = [None]
    try:
        return make(running)
    except MpsimError:
        raise
    except Exception as error:  # a user's model may fail in any way
        raise MpsimError(f"{what}: {cause_of(error, running[-1])}") from error


def build(source: Source, size: int) -> Example:
    """Build an example with the same random weights each time.

    Examples
    --------
    >>> import torch
    >>> from mpsim.workload.source import factory_source
    >>> source = factory_source(lambda n: (torch.nn.Linear(1, 1), torch.ones(n, 1)), 1, "mine")
    >>> bool(build(source, 1).model.weight == build(source, 2).model.weight)
    True
    """
    import torch

    from mpsim.workload.refusal import cause_of

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return source.build(size)
        except MpsimError:
            raise
        except Exception as error:  # a user's factory may fail in any way
            raise MpsimError(f"{source.name} cannot be built for {size} samples: {cause_of(error)}") from error


def _check_at_first(
    source: Source,
    size: int,
    shards: Sequence[Split],
    device: str,
    optimizer: str,
    types: Precision | None,
    context: str,
) -> None:
    """Refuse, before anything is measured, a model that has no such shards or that the device's memory cannot hold."""
    from mpsim.workload.experts import check_experts
    from mpsim.workload.fake import fake_example
    from mpsim.workload.found_plans import planned
    from mpsim.workload.fused import fused_attention
    from mpsim.workload.machine import memory_bytes
    from mpsim.workload.parallel_styles import parallel_styles
    from mpsim.workload.tensor_parallel import local_shard
    from mpsim.workload.update import optimizer_state_bytes, updated_bytes
    from mpsim.workload.wrappers import unwrapped

    try:
        example = fake_example(source, size)
        example = replace(example, model=unwrapped(example.model)[0])
    except MpsimError:
        raise
    except Exception:  # a factory that cannot be built without memory is built with it
        return
    for split in shards:
        if split.tp > 1:
            parallel_styles(planned(example)[0], split.tp)
        if split.ep > 1:
            check_experts(example, split.ep)
        if split.cp > 1 or split.sequence:
            with fused_attention():
                local_shard(example, split, context=context)
    parameters = list(example.model.parameters())
    dtype = types.parameters if types is not None else ""
    weights = sum(updated_bytes(item, dtype) for item in parameters)
    trained = sum(updated_bytes(item, dtype) for item in parameters if item.requires_grad)
    need = weights + trained + optimizer_state_bytes(optimizer, trained, len(parameters))
    have = memory_bytes(device)
    if have and need > have:
        from mpsim.units import format_bytes

        raise MpsimError(
            f"{source.name} needs {format_bytes(need)} for parameters, gradients and optimizer, {device} has"
            f" {format_bytes(have)}: trace with analytical costs (--analytical DEVICE), or a smaller size"
        )


def _tensors(source: Source | StepSource, points: list[Point], reference: int) -> tuple[Tensor, ...]:
    """Return the tensors between layers, their batch dimensions by the shapes at another micro-batch."""
    from mpsim.workload.assemble import tensors_of
    from mpsim.workload.fake import shape_point

    at = [point for point in points if point.microbatch == reference]
    whole = next(point for point in at if point.split == WHOLE)
    shards = [point for point in at if point.split != WHOLE]
    for point in points:
        if point.split == WHOLE and point.microbatch != reference:
            return tensors_of(whole, point, shards)
    if isinstance(source, Source):
        with contextlib.suppress(Exception):  # it cannot be built, or is another model, at a size nobody asked for
            return tensors_of(whole, shape_point(source, 2 * reference, whole), shards)
    return tensors_of(whole, None, shards)


def _workload(
    source: Source | StepSource,
    points: list[Point],
    tensors: tuple[Tensor, ...],
    reference: int,
    threads: int,
    dataset_samples: int,
    analytical: DeviceSpec | None,
) -> Workload:
    from mpsim.workload.assemble import layers_of
    from mpsim.workload.machine import provenance
    from mpsim.workload.model import Workload

    first, run = points[0], analytical is None
    return Workload(
        name=source.name,
        layers=layers_of(points),
        tensors=tensors,
        microbatch=reference,
        device=first.device if analytical is None else analytical.name,
        clock=first.clock if run else "given",
        threads=threads if run and first.clock in ("thread-cpu", "wall") else 0,
        optimizer=first.optimizer,
        precision=first.precision,
        dataset_samples=dataset_samples or getattr(source, "dataset_samples", 0),
        checks=tuple(replace(p.check, **axes_of(p.split)) for p in points if p.check is not None),
        notes=tuple(dict.fromkeys(note for point in points for note in point.notes)),
        provenance=provenance(source.name),
    )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many compute threads."""
    import torch

    before = torch.get_num_threads()
    if count > (os.cpu_count() or count):
        raise MpsimError(f"threads is {count}, this machine has {os.cpu_count()}: give that many at most")
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
