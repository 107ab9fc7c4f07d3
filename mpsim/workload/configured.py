"""A workload from a configuration: any size of a model, costed by a device's roofline; nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsim.calls import checked
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.measured_blocks import with_measured_blocks
from mpsim.workload.model import Workload
from mpsim.workload.source import resolve_model
from mpsim.workload.trace import trace

if TYPE_CHECKING:
    from mpsim.workload.split import Split

__all__ = ["configured"]


@checked
def configured(
    model: Any,
    device: DeviceSpec | str,
    *,
    seq: int | None = None,
    precision: str | None = None,
    splits: Sequence[Split | int | str] = (),
    microbatches: Sequence[int] = (1,),
    optimizer: str = "adamw",
    measured: Workload | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    **shared: Any,
) -> Workload:
    """Return the workload of a model that is too large to be built, costed by a device's roofline.

    Parameters
    ----------
    model : str, transformers.PretrainedConfig, torch.nn.Module, callable or Source
        A name of the zoo, a config.json of transformers or the folder with one (``hf:FOLDER``),
        ``package.module:factory``, or whatever else :func:`mpsim.trace` takes.
    device : DeviceSpec or str
        Its roofline, or the name of a device of the catalog, whose products then are at the rate of `precision`.
    seq : int
        Tokens in a sequence; the model's own if not given.
    precision : str
        As of :func:`mpsim.trace`; by default as the model is.
    splits : sequence of Split, int or str
        Beside the whole, such as ``"tp=8,sequence"``; a number is of tensor-parallel ranks.
    microbatches : sequence of int
        Sizes to cost.
    optimizer : str
        As of :func:`mpsim.trace`.
    measured : Workload or str
        A trace made on the device, or its file: layers of the same kind and shape take its times, and the workload's
        notes say what share of a step is measured (:mod:`mpsim.workload.measured_blocks`).
    overrides : mapping
        Sizes of a zoo model, or fields of a configuration.
    **shared
        ``context``, ``regather``, ``imbalance``, ``depth`` and ``name`` of :func:`mpsim.trace`.

    Returns
    -------
    Workload
        With a cost at each micro-batch size and split.

    Raises
    ------
    MpsimError
        There is no such model, its sizes do not go together, it has no such split, or `measured` has nothing of it.

    Examples
    --------
    >>> from mpsim.workload.device_spec import DeviceSpec
    >>> peaks = {"bfloat16": 1e15, "float32": 5e14}
    >>> toy = DeviceSpec(name="toy", peak_flops_per_s=peaks, memory_bytes_per_s=3e12, kernel_floor_s=0.0)
    >>> made = configured("llama", toy, seq=16, precision="bf16", splits=["tp=2"], microbatches=(1, 2))
    >>> len(made.layers), [(cost.microbatch, cost.split.tp) for cost in made.layers[1].costs]
    (9, [(1, 1), (2, 1), (1, 2), (2, 2)])
    """
    sizes = {**(overrides or {}), **({} if seq is None else {"seq": seq})}
    spec = DeviceSpec.of(device, precision or "")
    made = trace(
        resolve_model(model, sizes) if isinstance(model, str) else model,
        microbatches=tuple(microbatches),
        splits=tuple(splits),
        precision=precision,
        optimizer=optimizer,
        analytical=spec,
        progress=False,
        **shared,
    )
    if measured is None:
        return made
    return with_measured_blocks(made, Workload.of(measured), spec)
