"""A file of measured steps: units by two clocks, and whole steps of the same model beside them, row by row.

`h200_steps.json` beside this module is such a file, measured on an NVIDIA H200 (torch 2.11.0, CUDA 13.0); what its
numbers are stands in its `about`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mpsim.documents import decode
from mpsim.errors import MpsimError
from mpsim.files import parse_json, read_text

__all__ = ["COMMITTED", "MeasuredRow", "MeasuredStep", "Unit", "load_steps"]

COMMITTED = Path(__file__).with_name("h200_steps.json")
_Clocks = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One layer: host and device seconds of its passes, and what it holds and does.

    `backward` is all of it, `backward_input` the part for its inputs alone.
    """

    name: str
    forward: _Clocks
    backward: _Clocks
    backward_input: _Clocks
    tensors: int
    parameters: int
    saved_bytes: int
    flops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """A step of plain PyTorch: alone, back to back, by phase of the host; and what it took of the memory."""

    microbatches: int
    wall_s: float
    wall_all_s: tuple[float, ...]
    back_to_back_s: float
    host_forward_s: float
    host_backward_s: float
    host_optimizer_s: float
    peak_bytes: int = 0
    reserved_bytes: int = 0

    @property
    def spread_fraction(self) -> float:
        """How far apart the repetitions are."""
        return (max(self.wall_all_s) - min(self.wall_all_s)) / self.wall_s


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One model at one micro-batch and shard: its units, the update of all parameters in one call, and its steps."""

    model: str
    microbatch: int
    tensor_parallel: int = 1
    device: str = ""
    torch: str = ""
    units: tuple[Unit, ...]
    optimizer_whole: _Clocks
    steps: tuple[MeasuredStep, ...]

    def __post_init__(self) -> None:
        if not self.units or not self.steps:
            raise MpsimError(f"{len(self.units)} units and {len(self.steps)} steps, expected one or more of each")
        if min(self.microbatch, self.tensor_parallel, *(step.microbatches for step in self.steps)) < 1:
            raise MpsimError("a micro-batch size, a shard or a number of micro-batches below 1")
        times = [seconds for unit in self.units for seconds in (*unit.forward, *unit.backward, *unit.backward_input)]
        for step in self.steps:
            if not step.wall_all_s or min(step.wall_s, step.back_to_back_s) <= 0:
                raise MpsimError("a step of no time: measure it again")
            times += [step.host_forward_s, step.host_backward_s, step.host_optimizer_s, *step.wall_all_s]
        if not all(0 <= seconds < math.inf for seconds in (*times, *self.optimizer_whole)):
            raise MpsimError("a time that is no number of seconds, zero or more")

    @property
    def name(self) -> str:
        """The row in a few words."""
        shard = f" tp {self.tensor_parallel}" if self.tensor_parallel > 1 else ""
        return f"{self.model} {self.microbatch}{shard}"


def load_steps(path: str | Path = COMMITTED) -> tuple[MeasuredRow, ...]:
    """Read a file of measured steps; rows that failed where they were measured are left out.

    Raises
    ------
    MpsimError
        No such file, or not one of measured steps.

    Examples
    --------
    >>> load_steps()[0].name
    'mnist-mlp 1024'
    """
    text = read_text(
        path, "name one of measured steps", missing=lambda: ": name one of measured steps, or none for ours"
    )
    try:
        body = parse_json(text)
    except ValueError as error:
        raise MpsimError(f"{path} is no file of measured steps ({error}): name another") from None
    rows = body.get("rows") if isinstance(body, dict) else None
    if not isinstance(rows, list) or not rows:
        raise MpsimError(f"{path} is no file of measured steps: it has no list of rows, each with units and steps")
    found = [
        _row(item, f"{path}: row {i}")
        for i, item in enumerate(rows)
        if not (isinstance(item, dict) and "failed" in item)
    ]
    if not found:
        raise MpsimError(f"{path}: all of its {len(rows)} rows failed where they were measured: measure again")
    return tuple(found)


def _row(item: Any, where: str) -> MeasuredRow:
    row: MeasuredRow = decode(MeasuredRow, _known(MeasuredRow, item), where)
    return row


_INSIDE = {"units": Unit, "steps": MeasuredStep}


def _known(kind: type, item: Any) -> Any:
    """Leave out what else such a file says of itself."""
    if not isinstance(item, dict):
        return item
    names = {field.name for field in fields(kind)}
    kept = {name: value for name, value in item.items() if name in names}
    for name, inner in _INSIDE.items():
        if isinstance(kept.get(name), list):
            kept[name] = [_known(inner, one) for one in kept[name]]
    return kept
