"""Trace: measure a real PyTorch model's training step, layer by layer, into a workload."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mpsim.errors import MpsimError
from mpsim.workload.allocator import keep_freed_memory
from mpsim.workload.rounds import Rounds
from mpsim.workload.source import Source, factory_source, module_source, resolve_model

if TYPE_CHECKING:
    import torch

    from mpsim.workload.analytical import DeviceSpec
    from mpsim.workload.example import Example
    from mpsim.workload.model import Tensor, Workload
    from mpsim.workload.point import Point

__all__ = ["trace"]


def trace(
    model: torch.nn.Module | Callable[[int], Any] | Source | str,
    batch: Any = None,
    *,
    name: str | None = None,
    microbatches: Sequence[int] | None = None,
    tensor: Sequence[int] = (1,),
    depth: int | str = "auto",
    repeats: int = 7,
    warmup: int = 2,
    optimizer: str = "adamw",
    threads: int = 1,
    device: str | None = None,
    target: torch.Tensor | None = None,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    tensor_parallel: Mapping[str, str] | None = None,
    dataset_samples: int = 0,
    analytical: DeviceSpec | None = None,
    progress: Callable[[str], None] | None = None,
) -> Workload:
    """Measure a model's training step on this machine, layer by layer.

    The model runs: forward, loss, backward and optimizer step, whole and layer by layer, interleaved and
    repeated. Its weights are as before afterwards (the optimizer runs with a learning rate of zero).

    Parameters
    ----------
    model : torch.nn.Module, callable, Source or str
        A module; a factory ``f(batch_size) -> Example``, ``(model, inputs)`` or ``(model, inputs, target, loss)``;
        a zoo name or ``package.module:factory``.
    batch : tensor, tuple or dict of tensors, int or None
        With a module: its arguments, sliced or repeated along the first dimension for other micro-batches.
        Otherwise the number of samples, None for the model's default.
    name : str
        The workload's name.
    microbatches : sequence of int
        Micro-batch sizes to measure; the batch's own if not given.
    tensor : sequence of int
        Tensor-parallel sizes to measure, one of them 1.
    depth : int or "auto"
        How many modules deep the layers lie (see :func:`mpsim.workload.grouping.group_nodes`).
    repeats, warmup : int
        Repetitions kept, and rounds before them that are not.
    optimizer : str
        ``adamw``, ``adam``, ``momentum`` or ``sgd``.
    threads : int
        Compute threads on a CPU. With one, times are this thread's processor time, which other programs do not
        disturb; with more, the other threads' work is not on that clock and times are wall times.
    device : str
        Such as ``"cuda"``; CUDA where there is one, else the CPU.
    target, loss
        With a module: labels, and ``loss(output, target)``.
    tensor_parallel : mapping of str to str
        With a module: see :class:`Example`.
    dataset_samples : int
        Samples in one epoch.
    analytical : DeviceSpec
        Do not run: cost every operation by this device's roofline. For models too large for the device.
    progress : callable
        Called with a line of text before each measurement.

    Returns
    -------
    Workload
        Raw samples of every layer; ``checks`` has the sum of layers against the whole step.

    Raises
    ------
    MpsimError
        The model cannot be exported or sharded, does not fit the device, or its loss is not finite.

    Examples
    --------
    >>> import torch
    >>> mlp = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> workload = trace(mlp, torch.ones(4, 8), microbatches=(2, 4), repeats=2)
    >>> [layer.name for layer in workload.layers], workload.layers[0].shard().gradient_bytes
    (['0', '2'], 576)
    """
    _need_torch()
    example = {"target": target, "loss": loss, "tensor_parallel": tensor_parallel or {}}
    source = _source(model, batch, example, name)
    source = replace(source, name=name or source.name)
    sizes = tuple(dict.fromkeys(microbatches or (source.default_batch,)))
    shards = tuple(dict.fromkeys(tensor))
    _check_request(sizes, shards, repeats, warmup, threads)
    where = _device(device)
    reference = source.default_batch if source.default_batch in sizes else max(sizes)
    rounds = Rounds(source.name, [(size, ranks) for ranks in shards for size in sizes], repeats + max(0, warmup - 1))
    if analytical is not None:
        from mpsim.workload.analytical import analytical_point

        def point(size: int, ranks: int) -> Point:
            return analytical_point(source, size, ranks, analytical, depth=depth, optimizer=optimizer)
    else:
        _check_fits(source, min(sizes), where, optimizer)

        def point(size: int, ranks: int) -> Point:
            return _measured(
                source, size, ranks, where, depth=depth, optimizer=optimizer, threads=threads, repeats=repeats,
                warmup=warmup, each=rounds.one,
            )  # fmt: skip

    with _threads(threads), keep_freed_memory(), rounds:
        points = _whole_points(point, rounds, progress)
    at = {one.microbatch for one in points if one.tensor_parallel == 1}
    reference = reference if reference in at else max(at)
    tensors = _tensors(source, points, reference)
    return _workload(source, points, tensors, reference, where, threads, optimizer, dataset_samples, analytical)


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        raise MpsimError("tracing a model needs PyTorch, which is not installed: pip install 'mpsim[trace]'") from None


def _source(model: Any, batch: Any, example: Mapping[str, Any], name: str | None) -> Source:
    import torch

    if isinstance(model, str):
        model = resolve_model(model)
    if isinstance(model, Source):
        chosen = factory_source(model.build, batch or model.default_batch, model.name)
        return replace(chosen, dataset_samples=model.dataset_samples)
    if isinstance(model, torch.nn.Module):
        return module_source(model, batch, example, name or type(model).__name__)
    if callable(model):
        return factory_source(model, batch, name or str(getattr(model, "__name__", "model")))
    raise MpsimError(f"model is a {type(model).__name__}: give a torch.nn.Module, a factory, or a zoo name")


def _check_request(sizes: Sequence[int], shards: Sequence[int], repeats: int, warmup: int, threads: int) -> None:
    for what, values in (("micro-batch", sizes), ("tensor-parallel size", shards)):
        for value in values:
            if value < 1:
                raise MpsimError(f"{what} is {value}, expected 1 or more")
    if 1 not in shards:
        raise MpsimError(f"tensor-parallel sizes {','.join(map(str, shards))} lack 1: the whole layer is measured too")
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


def _whole_points(
    point: Callable[[int, int], Point], rounds: Rounds, progress: Callable[[str], None] | None
) -> list[Point]:
    """Return all points, or where Ctrl-C ends it those that are whole, so far as they make a workload."""
    points: list[Point] = []
    for size, ranks in rounds.points:
        rounds.at(size, ranks, progress)
        try:
            points.append(point(size, ranks))
        except KeyboardInterrupt:
            if not any(one.tensor_parallel == 1 for one in points):
                raise
            missing = len(rounds.points) - len(points)
            points[0].notes.append(f"interrupted: {missing} of {len(rounds.points)} points are missing")
            break
    return points


def _measured(source: Source, size: int, ranks: int, where: str, **how: Any) -> Point:
    from mpsim.workload.feeds import feeds_of
    from mpsim.workload.point import measured_point, on_device
    from mpsim.workload.sharding import sharded
    from mpsim.workload.step import step_of

    def measured(example: Example) -> Point:
        return measured_point(step_of(example), feeds_of(example), size, **how)

    try:
        example = on_device(build(source, size), where)
        return measured(example) if ranks == 1 else sharded(example, ranks, measured)
    except MpsimError:
        raise
    except Exception as error:  # such as memory that runs out
        what = f"{source.name} at micro-batch {size}, tp={ranks} failed on {where}"
        raise MpsimError(f"{what}: {type(error).__name__}: {_first_line(error)}") from error


def build(source: Source, size: int) -> Example:
    """Build an example with the same random weights each time.

    Examples
    --------
    >>> import torch
    >>> source = factory_source(lambda n: (torch.nn.Linear(1, 1), torch.ones(n, 1)), 1, "mine")
    >>> bool(build(source, 1).model.weight == build(source, 2).model.weight)
    True
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return source.build(size)
        except MpsimError:
            raise
        except Exception as error:  # a user's factory may fail in any way
            raise MpsimError(
                f"{source.name} cannot be built for {size} samples: {type(error).__name__}: {_first_line(error)}"
            ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _check_fits(source: Source, size: int, device: str, optimizer: str) -> None:
    """Refuse a model whose parameters, gradients and optimizer state alone exceed the device's memory."""
    from mpsim.workload.fake import fake_example
    from mpsim.workload.machine import memory_bytes
    from mpsim.workload.update import optimizer_state_bytes

    try:
        parameters = list(fake_example(source, size).model.parameters())
    except MpsimError:
        raise
    except Exception:  # a factory that cannot be built without memory is built with it
        return
    weights = sum(item.nbytes for item in parameters)
    trained = sum(item.nbytes for item in parameters if item.requires_grad)
    need = weights + trained + optimizer_state_bytes(optimizer, trained, len(parameters))
    have = memory_bytes(device)
    if have and need > have:
        from mpsim.units import format_bytes

        raise MpsimError(
            f"{source.name} needs {format_bytes(need)} for parameters, gradients and optimizer, {device} has"
            f" {format_bytes(have)}: trace with analytical costs (--analytical DEVICE), or a smaller size"
        )


def _tensors(source: Source, points: list[Point], reference: int) -> tuple[Tensor, ...]:
    """Return the tensors between layers, their batch dimensions by the shapes at another micro-batch."""
    from mpsim.workload.assemble import tensors_of
    from mpsim.workload.fake import shape_point

    at = [point for point in points if point.microbatch == reference]
    whole = next(point for point in at if point.tensor_parallel == 1)
    shards = [point for point in at if point.tensor_parallel > 1]
    for point in points:
        if point.tensor_parallel == 1 and point.microbatch != reference:
            return tensors_of(whole, point, shards)
    try:
        return tensors_of(whole, shape_point(source, 2 * reference, whole), shards)
    except Exception:  # it cannot be built, or is another model, at a size that nobody asked for
        return tensors_of(whole, None, shards)


def _workload(
    source: Source,
    points: list[Point],
    tensors: tuple[Tensor, ...],
    reference: int,
    device: str,
    threads: int,
    optimizer: str,
    dataset_samples: int,
    analytical: DeviceSpec | None,
) -> Workload:
    from mpsim.workload.assemble import layers_of
    from mpsim.workload.clock import clock_for
    from mpsim.workload.machine import device_name, provenance
    from mpsim.workload.model import Workload

    kind = device.split(":")[0]
    run = analytical is None
    return Workload(
        name=source.name,
        layers=layers_of(points),
        tensors=tensors,
        microbatch=reference,
        device=device_name(device) if analytical is None else analytical.name,
        clock=clock_for(kind, threads).names[0] if run else "given",
        threads=threads if run and kind == "cpu" else 0,
        optimizer=optimizer,
        dataset_samples=dataset_samples or source.dataset_samples,
        checks=tuple(replace(p.check, tensor_parallel=p.tensor_parallel) for p in points if p.check is not None),
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
