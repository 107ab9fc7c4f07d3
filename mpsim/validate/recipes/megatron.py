"""Plans of Megatron-LM's authors on A100 nodes, of 2021 and of 2022."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mpsim.validate.published.folding import plan_of
from mpsim.validate.published.megatron import (
    MACHINE,
    MEGATRON_2021,
    MEGATRON_2022,
    STATE,
    UPDATE_BYTES,
    Run,
    case_2021,
    case_2022,
    first_block,
    roofline,
    run_2021,
    run_2022,
)
from mpsim.validate.published.model import Inputs
from mpsim.validate.published.table import Row
from mpsim.validate.recipes.recipe import Choices, Recipe, Source, shared_among
from mpsim.validate.recipes.shares import Training

__all__ = ["OF_2021", "OF_2022"]

# What could be computed again then.
_AGAIN = {"2021": ("", "block*"), "2022": ("", "selective", "block*")}


def _recipe(run: Run, case: str, year: str, measured_s: float) -> Recipe:
    """Return a run as a recipe; replicas reduce when all is computed, and each holds the whole optimizer."""
    shared = run.shared
    training = Training(
        decoder=run.decoder, sequence=shared.sequence, device=MACHINE.device, rates=roofline(), plain=roofline(),
        state=STATE, ends=STATE, update_bytes=UPDATE_BYTES, overlaps=shared.overlaps, keeps_scores=True,
    )  # fmt: skip
    plan = plan_of(
        dp=run.dp, pp=run.pp, microbatches=run.microbatches, chunks=run.chunks, layers=run.decoder.layers, first=1,
        recompute=run.recompute, runtime="blocking" if run.chunks > 1 else "torch-nccl",
    )  # fmt: skip
    plan = shared_among(plan, run.dp, 1, shared.tp, sequence=shared.sequence_parallel)
    return Recipe(
        case=case, system=f"A100, Megatron-LM {year}", kind=(year,), training=training, machine=MACHINE,
        plan=replace(plan, batch=shared.batch * run.microbatches * run.dp), microbatch=shared.batch,
        measured_s=measured_s, choices=Choices(zero=(0,), recompute=_AGAIN[year], sequence=shared.sequence_parallel),
    )  # fmt: skip


def _read_2021(row: Row, inputs: Inputs) -> Recipe:
    return _recipe(run_2021(row), case_2021(row), "2021", row.number("derived_iter_s"))


def _read_2022(row: Row, inputs: Inputs) -> Recipe:
    first, speed = first_block(inputs)
    found = _recipe(run_2022(row), case_2022(row), "2022", row.number("iter_s"))
    return replace(found, speed=speed, set_by=f"megatron_seqpar2022_layer: {first.text('experiment')}")


def _first(recipes: Sequence[Recipe]) -> Mapping[tuple[str, ...], Recipe]:
    """Return the first row, of the smallest model."""
    return {recipes[0].kind: recipes[0]}


OF_2021 = Source(
    file=MEGATRON_2021.file, columns=MEGATRON_2021.columns, read=_read_2021, case=case_2021, setting=_first
)
OF_2022 = Source(
    file=MEGATRON_2022.file, columns=MEGATRON_2022.columns, read=_read_2022, case=case_2022, setting=lambda _: {}
)
