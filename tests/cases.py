"""Workloads made by hand for tests, and spans as a timetable."""

from collections.abc import Mapping, Sequence

from mpsim.result.model import Result
from mpsim.workload.model import Cost, Gradient, Layer, Parameter, Samples, Shard, ShardCollective, Tensor, Workload

Times = tuple[float, float, float]


def layer(
    name: str,
    times: Times | Mapping[int, Times] = (1.0, 1.0, 1.0),
    *,
    parameters: Mapping[str, int] | None = None,
    exchanged: Sequence[tuple[str, str, int]] = (),
    optimizer_s: float = 0.0,
    optimizer_bytes: int = 0,
    saved_bytes: int = 0,
    tensor_parallel: Sequence[int] = (1,),
) -> Layer:
    """Make a layer of `times` (forward, backward input, backward weight), the same at each tensor-parallel size.

    `parameters` are (name, bytes on one rank); `exchanged` are (phase, kind, bytes) of a sharded layer.
    """
    held = tuple((parameters or {}).items())
    shards = tuple(
        Shard(
            tensor_parallel=n,
            parameters=tuple(Parameter(name=key, shape=(count,), dtype="uint8") for key, count in held),
            gradients=tuple(Gradient(parameter=key, bytes=count) for key, count in held),
            optimizer_bytes=optimizer_bytes,
        )
        for n in tensor_parallel
    )
    by_size = times if isinstance(times, Mapping) else dict.fromkeys(tensor_parallel, times)
    calls = tuple(ShardCollective(phase=phase, kind=kind, bytes=count) for phase, kind, count in exchanged)
    costs = tuple(
        Cost(
            microbatch=1,
            tensor_parallel=n,
            samples=Samples(forward_s=(f,), backward_input_s=(i,), backward_weight_s=(w,), optimizer_s=(optimizer_s,)),
            saved_bytes=saved_bytes,
            collectives=calls if n > 1 else (),
        )
        for n, (f, i, w) in by_size.items()
    )
    return Layer(name=name, kind="given", shards=shards, costs=costs)


def tensor(producer: str, consumers: Sequence[str], count: int, **fields) -> Tensor:
    """Make a tensor of `count` bytes for each sample."""
    fields = {"name": f"{producer}.output", "dtype": "uint8", "shape": (1, count)} | fields
    return Tensor(producer=producer, consumers=tuple(consumers), **fields)


def chained(layers: Sequence[Layer], count: int) -> Workload:
    """Make a chain of layers whose outputs have `count` bytes."""
    return Workload.chain("chain", list(layers), activation_bytes=count, sends="whole")


def timetable(result: Result) -> dict[str, tuple[float, float]]:
    """Return name → (start, end) of all that ran; no two of one name."""
    spans = result.spans
    assert len(set(spans.name)) == len(spans), "two tasks of one name: ask for an axis"
    return dict(zip(spans.name, zip(spans.start_s, spans.end_s, strict=True), strict=True))


def on_axis(result: Result, axis: str) -> list[tuple[str, tuple[int, ...], float, float]]:
    """Return (name, devices, start, end) of the transfers of one axis, or of computations, in order of time."""
    spans = result.spans
    rows = zip(spans.axis, spans.name, spans.devices, spans.start_s, spans.end_s, strict=True)
    found = [tuple(row) for on, *row in rows if on == axis]
    return sorted(found, key=lambda row: (row[2:], row[:2]))
