"""Megatron-LM on A100 nodes: a block, and whole iterations of up to a trillion parameters (SC 2021, and 2022).

Of Narayanan et al. (arXiv 2104.04473) the smallest model sets the device's speed beside its roofline, of Korthikanti et
al. (arXiv 2205.05198) the block without recomputation; all other rows judge. Replicas reduce when all is computed, so
one pipeline is replayed and their all-reduce put behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from mpsim.errors import MpsimError
from mpsim.lowering.rescaling import roofline_of
from mpsim.simulation.run import simulate
from mpsim.validate.published.decoder import Decoder, Part, Rates, Roofline, Shared, Slowed, block, embedding, head
from mpsim.validate.published.folding import Machine, State, layer, plan_of, speed_at, workload
from mpsim.validate.published.model import Adapter, Inputs, Outcome, Predictor
from mpsim.validate.published.table import Row, Table
from mpsim.workload.layers import Layer

__all__ = [
    "MACHINE", "MEGATRON_2021", "MEGATRON_2022", "MEGATRON_BLOCK", "STATE", "UPDATE_BYTES", "Run", "case_2021",
    "case_2022", "first_block", "roofline", "run_2021", "run_2022",
]  # fmt: skip

MACHINE = Machine("A100-SXM4-80GB", "nvlink3", "ib_hdr")
# fp16 parameters and gradients, fp32 master weights and Adam's moments. An update (megatron/optimizer/optimizer.py,
# Float16OptimizerWithFloat16Params) copies gradients to fp32 (6 bytes), unscales them and looks for overflows (8),
# takes their norm (4), clips (8), does Adam (28) and copies the master weights back (6).
STATE = State(parameter="float16", gradient="float16")
UPDATE_BYTES = 60
_RECOMPUTED = {"none": "", "full": "block*", "full (per layer)": "block*", "selective": "selective"}


@cache
def roofline() -> Roofline:
    """Return the roofline; attention of the time kept all scores, with softmax and its mask in one kernel."""
    return Roofline(roofline_of(MACHINE.device), "float16", fused=False)


def _block(decoder: Decoder, shared: Shared, rates: Rates) -> Part:
    return block(decoder, shared, rates, MACHINE.exchanges({"tp": shared.tp}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a row says was run."""

    decoder: Decoder
    shared: Shared
    pp: int
    dp: int
    microbatches: int
    chunks: int
    recompute: str


def _iteration_s(run: Run, rates: Slowed) -> float:
    """Return one pipeline's step, and the all-reduce of its largest stage over the replicas behind it."""
    step_s = _pipeline_s(replace(run, dp=1), rates)
    if run.dp == 1:
        return step_s
    part, first = _block(run.decoder, run.shared, rates), _ends(run, rates)[0]
    parameters = first.parameters + part.parameters * run.decoder.layers / run.pp
    replicas = MACHINE.exchanges({"tp": run.shared.tp * run.pp, "cp": run.dp})
    return step_s + replicas("all_reduce", "cp", 2 * parameters)


def _ends(run: Run, rates: Slowed) -> tuple[Part, Part]:
    exchange = MACHINE.exchanges({"tp": run.shared.tp})
    return embedding(run.decoder, run.shared, rates, exchange), head(run.decoder, run.shared, rates, exchange)


@cache
def _pipeline_s(run: Run, rates: Slowed) -> float:
    shared, exchange = run.shared, MACHINE.exchanges({"tp": run.shared.tp})
    part, ends = _block(run.decoder, shared, rates), _ends(run, rates)
    whole = rates.width * shared.tokens * run.decoder.hidden
    # What each of the tp ranks sends is a part of it, over its own card, and is gathered behind it; of a cut sequence
    # each has its part anyway.
    gathered_s = 0.0 if shared.sequence_parallel or shared.tp == 1 else exchange("all_gather", "tp", whole)

    def made(name: str, part: Part, received: int = 0) -> Layer:
        return layer(
            name, part, STATE, update_s=lambda count: rates.passes(UPDATE_BYTES * count),
            again_s=received * gathered_s,
        )  # fmt: skip

    count, each = run.decoder.layers, run.decoder.layers // (run.pp * run.chunks)
    received = [(i % each == 0 and i > 0) + (i % each == each - 1 and i < count - 1) for i in range(count)]
    blocks = [made(f"block{i}", part, times) for i, times in enumerate(received)]
    plan = plan_of(
        pp=run.pp, microbatches=run.microbatches, chunks=run.chunks, layers=count, first=1, recompute=run.recompute,
        runtime="blocking" if run.chunks > 1 else "torch-nccl",
    )  # fmt: skip
    layers = [made("embedding", ends[0]), *blocks, made("head", ends[1])]
    work = workload("megatron", layers, STATE, MACHINE.device, whole / shared.tp)
    return simulate(work, MACHINE.folded(run.pp, shared.tp), plan, spans=False).step_s


def _run(row: Row, recompute: str, microbatch: int, chunks: int, *, sequence_parallel: bool) -> Run:
    if recompute not in _RECOMPUTED:
        raise MpsimError(f"recomputes {recompute!r}: none, full and selective are known here")
    hidden, heads, layers, tp, pp, dp = (row.count(name) for name in ("hidden", "heads", "layers", "tp", "pp", "dp"))
    decoder = Decoder(
        layers=layers, hidden=hidden, heads=heads, kv_heads=heads, ffn=4 * hidden, vocabulary=row.count("vocab"),
        gated=False, rotary=False,
    )  # fmt: skip
    row.check_gpus(tp * pp * dp)
    microbatches, rest = divmod(row.count("global_batch"), microbatch * dp)
    if rest or not chunks or layers % (pp * chunks) or heads % tp:
        raise MpsimError(
            f"{row.where}: batch, layers or heads do not divide over dp {dp}, pp {pp} × {chunks} chunks, tp {tp}"
        )
    return Run(
        decoder=decoder, shared=Shared(microbatch, row.count("seq"), tp, sequence_parallel=sequence_parallel), pp=pp,
        dp=dp, microbatches=microbatches, chunks=chunks, recompute=_RECOMPUTED[recompute],
    )  # fmt: skip


# Table 1 of 2021


def run_2021(row: Row) -> Run:
    """Return what a row of 2021 says was run."""
    layers = row.count("layers")
    chunk = row.text("layers_per_virtual_stage")
    chunks = layers // (row.count("pp") * row.count("layers_per_virtual_stage")) if chunk else 1
    return _run(row, row.text("recompute"), row.count("micro_batch"), chunks, sequence_parallel=False)


@cache
def _speed_2021(first: Row) -> float:
    run = run_2021(first)
    return speed_at(lambda speed: _iteration_s(run, Slowed(roofline(), speed)), first.number("derived_iter_s"))


def _open_2021(table: Table, inputs: Inputs) -> Predictor:
    committed = inputs("megatron_sc21_table1", committed=True).rows[0]
    speed = _speed_2021(committed)

    def predict(row: Row) -> Iterator[Outcome]:
        predicted_s = _iteration_s(run_2021(row), Slowed(roofline(), speed))
        found = Outcome(case=case_2021(row), measured=row.number("derived_iter_s"), predicted=predicted_s)
        sets = f"A100's speed, {speed:.3f} of its roofline"
        yield found.set_by(case_2021(committed), sets, same=row.same(committed, MEGATRON_2021.columns))

    return predict


def case_2021(row: Row) -> str:
    """Return the name of a row of 2021."""
    return f"{row.text('params_B')}B, tp={row.text('tp')} pp={row.text('pp')} dp={row.text('dp')}"


MEGATRON_2021 = Adapter(
    file="megatron_sc21_table1",
    about="Megatron-LM of 1.7 to 1,008 billion parameters on up to 3,072 A100: rooflines of its kernels, replayed.",
    columns=("heads", "hidden", "layers", "seq", "vocab", "tp", "pp", "dp", "global_batch", "micro_batch",
             "layers_per_virtual_stage", "recompute", "derived_iter_s"),
    open=_open_2021,
    case=case_2021,
    goals={"time": 0.04},
)  # fmt: skip


# The block and the iterations of 2022


def _block_of(row: Row) -> tuple[Decoder, int, int, int]:
    """Return the sizes that a row's name of a block has: the model, micro-batch, sequence and tp."""
    text = row.text("model")
    found = {
        name: re.search(pattern, text)
        for name, pattern in {
            "hidden": r"h(\d+)", "heads": r"(\d+) heads", "seq": r"seq(\d+)", "batch": r"micro-batch (\d+)",
            "tp": r"TP(\d+)",
        }.items()
    }  # fmt: skip
    if missing := [name for name, match in found.items() if match is None]:
        raise MpsimError(f"{row.where}: {text!r} names no {missing[0]}")
    hidden, heads, sequence, batch, tp = (int(match[1]) for match in found.values() if match)
    decoder = Decoder(
        layers=1, hidden=hidden, heads=heads, kv_heads=heads, ffn=4 * hidden, vocabulary=1, gated=False, rotary=False
    )
    return decoder, batch, sequence, tp


def _block_s(row: Row, rates: Rates) -> float:
    """Return forward and backward of a block, as a row says that it is run."""
    decoder, batch, sequence, tp = _block_of(row)
    experiment = row.text("experiment")
    if not re.search("recompute|sequence parallelism", experiment):
        raise MpsimError(f"{row.where}: {experiment!r} says neither what is recomputed nor of sequence parallelism")
    recompute = "full" if "full recompute" in experiment else "selective" if "selective" in experiment else "none"
    shared = Shared(batch, sequence, tp, sequence_parallel="sequence parallelism" in experiment)
    part = _block(decoder, shared, rates)
    passes_s = part.forward_s + part.inputs_s + part.weights_s + part.exchanged_s + part.exchanged_back_s
    again_s = {"full": part.forward_s + part.exchanged_s, "selective": part.attention_s, "none": 0.0}
    return passes_s + again_s[recompute]


@cache
def _speed_2022(first: Row) -> float:
    decoder, batch, sequence, tp = _block_of(first)
    part = _block(decoder, Shared(batch, sequence, tp), roofline())
    computed_s = part.forward_s + part.inputs_s + part.weights_s
    return computed_s / (first.number("combined_ms") / 1e3 - part.exchanged_s - part.exchanged_back_s)


def first_block(inputs: Inputs) -> tuple[Row, float]:
    """Return the block that sets the speed of 2022, and that."""
    row = inputs("megatron_seqpar2022_layer", committed=True).rows[0]
    return row, _speed_2022(row)


def _open_block(table: Table, inputs: Inputs) -> Predictor:
    first, speed = first_block(inputs)

    def predict(row: Row) -> Iterator[Outcome]:
        predicted_s = _block_s(row, Slowed(roofline(), speed))
        found = Outcome(case=row.text("experiment"), measured=row.number("combined_ms") / 1e3, predicted=predicted_s)
        sets = f"A100's speed, {speed:.3f} of its roofline"
        yield found.set_by(first.text("experiment"), sets, same=row.same(first, MEGATRON_BLOCK.columns))

    return predict


def run_2022(row: Row) -> Run:
    """Return what a row of 2022 says was run.

    Raises
    ------
    MpsimError
        It has no time, or says of its sequence neither that it was cut nor that it was not.
    """
    if not row.text("iter_s"):
        raise MpsimError("has no iteration time")
    chunks = row.count("interleave_stages_m", 1)
    cut = row.text("seq_parallel")
    if cut not in ("yes", "no"):
        raise MpsimError(f"{row.where}: seq_parallel is {cut!r}, expected yes or no")
    return _run(row, row.text("recompute"), row.count("micro_batch"), chunks, sequence_parallel=cut == "yes")


def _open_2022(table: Table, inputs: Inputs) -> Predictor:
    first, speed = first_block(inputs)

    def predict(row: Row) -> Iterator[Outcome]:
        predicted_s = _iteration_s(run_2022(row), Slowed(roofline(), speed))
        yield Outcome(
            case=case_2022(row), measured=row.number("iter_s"), predicted=predicted_s,
            calibrated_by=f"megatron_seqpar2022_layer: {first.text('experiment')}",
        )  # fmt: skip

    return predict


def case_2022(row: Row) -> str:
    """Return the name of a row of 2022."""
    model, recompute, cut, dp = map(row.text, ("model", "recompute", "seq_parallel", "dp"))
    return f"{model}, recompute {recompute}, sequence parallel {cut}, dp={dp}"


MEGATRON_BLOCK = Adapter(
    file="megatron_seqpar2022_layer",
    about="One block of the 22 B model on 8 A100, with sequence parallelism and recomputation, by its roofline.",
    columns=("model", "experiment", "combined_ms"),
    open=_open_block,
    case=lambda row: row.text("experiment"),
    goals={"time": 0.04},
)
MEGATRON_2022 = Adapter(
    file="megatron_seqpar2022_iteration",
    about="Iterations of 22 to 1,000 billion parameters with sequence parallelism and selective recomputation.",
    columns=("model", "heads", "hidden", "layers", "seq", "vocab", "tp", "pp", "dp", "global_batch", "micro_batch",
             "interleave_stages_m", "recompute", "seq_parallel", "iter_s"),
    open=_open_2022,
    case=case_2022,
    goals={"time": 0.04},
)  # fmt: skip
