"""torchtitan's published configurations: FSDP with tensor, pipeline and context parallelism."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mpsim.errors import MpsimError
from mpsim.validate.published.folding import State, plan_of
from mpsim.validate.published.model import Inputs
from mpsim.validate.published.table import Row
from mpsim.validate.published.torchtitan import (
    TORCHTITAN,
    UPDATE_BYTES,
    Run,
    again_of,
    case_of,
    measured_s,
    rates_of,
    run_of,
)
from mpsim.validate.recipes.recipe import Choices, Recipe, Source, shared_among
from mpsim.validate.recipes.shares import Training

__all__ = ["RECIPES"]

# Each parameter has a master in float32 and two moments; what is counted as the parameter itself is what is gathered.
_STATE_BYTES = 12
# The loss is of logits turned to float32 (torchtitan/components/loss.py), of which the logarithms are kept.
_LOGIT_BYTES = 4
_GIB = 2**30


def _read(row: Row, inputs: Inputs) -> Recipe:
    run = run_of(row)
    shared = run.shared
    plan = plan_of(
        dp=run.fsdp * shared.cp, pp=run.pp, microbatches=run.microbatches, chunks=run.chunks, zero=3,
        layers=run.decoder.layers, first=1, keeps=run.pp > 1, recompute=_again(run),
    )  # fmt: skip
    plan = shared_among(plan, run.fsdp, shared.cp, shared.tp, sequence=True)
    capacity = re.search(r"(\d+) ?GB", row.text("hardware"))
    measured = row.real("memory_GiB") if row.text("memory_GiB") else 0.0
    if measured < 0:
        raise MpsimError(f"{row.where}: memory_GiB is {measured:g}, expected 0 or more")
    return Recipe(
        case=case_of(row), system=f"torchtitan, {run.kind[0]}", kind=run.kind, training=_training(run),
        machine=run.machine, plan=replace(plan, batch=run.microbatches * shared.batch * run.fsdp),
        microbatch=shared.batch, measured_s=measured_s(row, run), choices=_choices(run),
        measured_bytes=round(measured * _GIB),
        capacity_bytes=round(1e9 * int(capacity[1])) if capacity else 0,
    )  # fmt: skip


def _again(run: Run) -> str:
    """Return what a plan says of what is computed again."""
    return "block*" if run.recompute == "full" else again_of(run)


def _choices(run: Run) -> Choices:
    """Return what could be run instead; what single products compute again is part of how a block is counted."""
    again = ("",) if run.recompute == "op" else tuple(dict.fromkeys((_again(run), "", "block*")))
    return Choices(zero=(3,), recompute=again, context=True, keeps=True)


def _training(run: Run) -> Training:
    shared, rates, plain = run.shared, *rates_of(run)
    gathered = 1 if run.float8 else 2
    return Training(
        decoder=run.decoder, sequence=shared.sequence, device=run.machine.device, rates=rates, plain=plain,
        state=State(
            parameter="int8" if run.float8 else "bfloat16", gradient="float32", optimizer=_STATE_BYTES - gathered,
            master="",
        ),
        ends=State(optimizer=_STATE_BYTES - 2, master=""), update_bytes=UPDATE_BYTES, context=shared.context,
        overlaps=shared.overlaps, logit_bytes=_LOGIT_BYTES,
        beside=("tp",) if run.hides else (), again="op" if run.recompute == "op" else "",
    )  # fmt: skip


def _setting(recipes: Sequence[Recipe]) -> Mapping[tuple[str, ...], Recipe]:
    """Return the first row of each GPU, code and precision."""
    return {one.kind: one for one in reversed(recipes)}


RECIPES = Source(file=TORCHTITAN.file, columns=TORCHTITAN.columns, read=_read, case=case_of, setting=_setting)
