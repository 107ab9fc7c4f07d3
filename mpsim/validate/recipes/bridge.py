"""Recipes of Megatron-Bridge: tuned by the authors of the framework for each model, system and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mpsim.validate.published.bridge import BRIDGE, SETS, STATE, UPDATE_BYTES, Run, case_of, rates_of, run_of
from mpsim.validate.published.folding import Machine, plan_of
from mpsim.validate.published.model import Inputs
from mpsim.validate.published.table import Row
from mpsim.validate.recipes.recipe import Choices, Recipe, Source, shared_among
from mpsim.validate.recipes.shares import Training

__all__ = ["RECIPES"]

_BUCKET_BYTES = 2**28
# A job of more than a rack of 72 is given as many of each rack as divide into groups: 64.
_MOST_OF_RACK = 64


def _read(row: Row, inputs: Inputs) -> Recipe:
    """Return the recipe of a row; of dense models exchanges of ranks that share layers go beside computation."""
    run = run_of(row)
    shared, rates, plain = run.shared, *rates_of(run)
    training = Training(
        decoder=run.decoder, sequence=shared.sequence, device=run.machine.device, rates=rates, plain=plain,
        state=STATE, ends=STATE, update_bytes=UPDATE_BYTES, context=shared.context, overlaps=shared.overlaps,
        beside=() if run.decoder.experts else ("tp", "cp"),
    )  # fmt: skip
    plan = plan_of(
        dp=run.dp * shared.cp, pp=run.pp, microbatches=run.microbatches, chunks=run.chunks, zero=3 if run.fsdp else 1,
        layers=run.decoder.layers, first=1,
    )  # fmt: skip
    plan = replace(plan, bucket_bytes=_BUCKET_BYTES, first_bucket_bytes=_BUCKET_BYTES)
    plan = shared_among(plan, run.dp, shared.cp, shared.tp, shared.ep, sequence=True)
    return Recipe(
        case=case_of(row), system=f"{run.kind[0]}{', experts' if run.decoder.experts else ''}", kind=run.kind,
        training=training, machine=_machine(run), plan=replace(plan, batch=row.count("global_batch")),
        microbatch=shared.batch, measured_s=run.measured_s,
        choices=Choices(zero=(1, 3), recompute=("", "block*"), context=not run.decoder.experts),
    )  # fmt: skip


def _machine(run: Run) -> Machine:
    """Return what a run had: of a rack no more than what divides into groups of ranks, if there are several."""
    devices = run.dp * run.pp * run.shared.tp * run.shared.cp
    machine = run.machine
    return replace(machine, per_node=min(machine.per_node, _MOST_OF_RACK)) if devices > machine.per_node else machine


def _setting(recipes: Sequence[Recipe]) -> Mapping[tuple[str, ...], Recipe]:
    """Return the Llama-8B row of each system and precision; BF16, which has none, runs at the speed of FP8-CS."""
    found = {one.kind: one for one in reversed(recipes) if one.case.startswith(SETS)}
    bf16 = {(system, "BF16"): one for (system, precision), one in found.items() if precision == "FP8-CS"}
    return bf16 | found


RECIPES = Source(file=BRIDGE.file, columns=BRIDGE.columns, read=_read, case=case_of, setting=_setting)
