"""torchtitan's published throughputs: FSDP with tensor, pipeline and context parallelism on up to 512 GPUs.

No times of layers were published. One row of each kind of GPU, of code (eager or compiled) and of precision sets the
speed beside the roofline; every other row judges. Float8 is the type of linear layers and of what FSDP gathers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from mpsim.errors import MpsimError
from mpsim.lowering.rescaling import roofline_of
from mpsim.simulation.run import simulate
from mpsim.validate.published.decoder import (
    Decoder,
    Rates,
    Roofline,
    Shared,
    Slowed,
    block,
    embedding,
    head,
    products_again_s,
)
from mpsim.validate.published.folding import Machine, State, layer, plan_of, speed_at, workload
from mpsim.validate.published.llama import named_decoder
from mpsim.validate.published.model import Adapter, Inputs, Outcome, Predictor
from mpsim.validate.published.table import Row, Table

__all__ = [
    "TORCHTITAN",
    "UPDATE_BYTES",
    "Run",
    "again_of",
    "calibrating",
    "case_of",
    "measured_s",
    "rates_of",
    "run_of",
]

# GPUs as tables write them, with their node and network: where that is not said, a card of the usual kind for each.
_MACHINES = {
    "H100": Machine("H100-SXM5-80GB", "nvlink4", "ib_ndr"),
    "H200": Machine("H200-SXM-141GB", "nvlink4", "ib_ndr"),
    "A100": Machine("A100-SXM4-80GB", "nvlink3", "ib_hdr"),
}
# fp32 parameters, of which bf16 is gathered (of linear layers in float8, one byte), gradients reduced in fp32; an
# update by fused AdamW reads 16 bytes and writes 12.
UPDATE_BYTES = 28
# Uncompiled, a norm goes over float32 copies in kernels of their own (28 bytes an element for 4), positions are turned
# in complex float32 (22 for 4), and an activation is written before it is multiplied (10 for 6).
# Types and schedules that techniques may name and that are not replayed.
_OTHERS = re.compile(r"\b(?:mx\w+|\w*fp4|fp8|fp16|int8)\b|zero.?bubble|\bzbv?\b|dualpipe|gpipe")
_EAGER = {"norm": 7.0, "turn": 5.5, "activation": 10 / 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a row says was run.

    Attributes
    ----------
    recompute : str
        ``none``, ``full``, ``layer`` (every second block) or ``op`` (every second product of a block).
    kind : tuple of str
        GPU, eager or compiled, precision: what sets a speed.
    """

    machine: Machine
    decoder: Decoder
    shared: Shared
    fsdp: int
    pp: int
    microbatches: int
    chunks: int
    recompute: str
    float8: bool
    hides: bool
    memory_bytes_per_s: float
    kind: tuple[str, ...]
    tokens: float


def run_of(row: Row) -> Run:
    """Return what a row says was run."""
    degrees = {name: int(size) for name, size in re.findall(r"(FSDP|TP|PP|CP)2?\s+(\d+)", row.text("parallelism"))}
    fsdp, tp, pp, cp = (degrees.get(name, 1) for name in ("FSDP", "TP", "PP", "CP"))
    if fsdp * tp * pp * cp != row.count("n_gpus"):
        raise MpsimError(f"{row.where}: {row.text('parallelism')!r} does not come to {row.text('n_gpus')} GPUs")
    techniques = row.text("techniques").lower()
    if other := _OTHERS.search(techniques):
        raise MpsimError(f"{other[0]!r} is not replayed here: bf16 and float8 under 1F1B, interleaved or not, are")
    gpu = next((name for name in _MACHINES if row.text("hardware").startswith(name)), None)
    if gpu is None:
        raise MpsimError(f"GPU {row.text('hardware')!r} is not known here: {', '.join(_MACHINES)} are")
    batch, decoder = row.count("local_batch"), named_decoder(row.text("model"))
    # What pipelines cut a batch into unless told otherwise is as many micro-batches as they have ranks.
    microbatches = pp if pp > 1 else 1
    chunks = 2 if "interleaved" in techniques and pp > 1 else 1
    if batch % microbatches or decoder.heads % (tp * cp):
        raise MpsimError(f"{row.where}: a batch of {batch} or {decoder.heads} heads do not divide over {degrees}")
    memory = re.search(r"([\d.]+) ?TB/s", row.text("hardware"))
    float8 = "float8" in techniques
    compiled = "compile" in techniques
    precision = "rowwise" if "rowwise" in techniques else "float8" if float8 else "bf16"
    shared = Shared(
        batch // microbatches, row.count("seq"), tp, cp, sequence_parallel=tp > 1, context="all_gather", overlaps=False,
    )  # fmt: skip
    return Run(
        machine=_MACHINES[gpu], decoder=decoder, shared=shared, fsdp=fsdp, pp=pp, microbatches=microbatches,
        chunks=chunks, recompute=_recomputed(row.text("activation_ckpt")), float8=float8,
        hides=bool(re.search(r"async ?tp", techniques)),
        memory_bytes_per_s=1e12 * float(memory[1]) if memory else 0.0,
        kind=(gpu, "compiled" if compiled else "eager", precision), tokens=float(batch * row.count("seq") * fsdp),
    )  # fmt: skip


def _recomputed(text: str) -> str:
    if text in ("none", "full"):
        return text
    if "selective" not in text:
        raise MpsimError(f"activation checkpointing {text!r} is not known here: none, full and selective are")
    return "layer" if "layer" in text else "op"


def again_of(run: Run) -> str:
    """Return what a plan says of what is computed again."""
    every = {"full": range(run.decoder.layers), "layer": range(0, run.decoder.layers, 2)}.get(run.recompute, ())
    return ",".join(f"block{i}" for i in every)


def rates_of(run: Run) -> tuple[Rates, Rates]:
    """Return the rooflines of a run's blocks, and of all else."""
    spec = roofline_of(run.machine.device)
    if run.memory_bytes_per_s:
        spec = replace(spec, memory_bytes_per_s=run.memory_bytes_per_s)
    apart = {} if "compiled" in run.kind else _EAGER
    linear = "float8_e4m3fn" if run.float8 else ""
    return Roofline(spec, "bfloat16", linear=linear, apart=apart), Roofline(spec, "bfloat16", apart=apart)


def _step_s(run: Run, speed: float) -> float:
    """Return the step of a run at a speed beside the roofline."""
    shared, decoder, machine = run.shared, run.decoder, run.machine
    rates, plain = (Slowed(one, speed) for one in rates_of(run))
    exchange = machine.exchanges({"tp": shared.tp, "cp": shared.cp})
    part = block(decoder, shared, rates, exchange)
    again_s = products_again_s(decoder, shared, part, rates) if run.recompute == "op" else 0.0
    if (
        run.hides
    ):  # Products are cut, and each piece is exchanged while the next is computed; what is gathered again is not.
        part.exchanged_s, part.exchanged_back_s = (
            0.0,
            2 * exchange("all_gather", "tp", 2 * shared.tokens * decoder.hidden),
        )
    ends = (embedding(decoder, shared, plain, exchange), head(decoder, shared, plain, exchange))
    state = State(parameter="int8" if run.float8 else "bfloat16", gradient="float32", optimizer=0, master="")
    replicas = run.fsdp * shared.cp

    def update_s(count: float) -> float:
        return plain.passes(UPDATE_BYTES * count)

    layers = [
        layer("embedding", ends[0], State(optimizer=0, master=""), update_s=update_s),
        *(layer(f"block{i}", part, state, update_s=update_s, again_s=again_s) for i in range(decoder.layers)),
        layer("head", ends[1], State(optimizer=0, master=""), update_s=update_s),
    ]
    plan = plan_of(
        dp=replicas, pp=run.pp, microbatches=run.microbatches, chunks=run.chunks, zero=3, layers=decoder.layers,
        first=1, keeps=run.pp > 1, recompute=again_of(run),
    )  # fmt: skip
    work = workload(
        "torchtitan", layers, State(optimizer=0, master=""), machine.device, 2 * shared.between * decoder.hidden
    )
    topology = machine.folded(replicas * run.pp, shared.tp)
    return simulate(work, topology, plan, spans=False).step_s


def measured_s(row: Row, run: Run) -> float:
    """Return the step that a row measured."""
    return run.tokens / (row.number("tokens_per_s_per_gpu") * row.count("n_gpus"))


def calibrating(rows: Sequence[Row]) -> dict[tuple[str, ...], Row]:
    """Return the first row of each kind, which sets its speed."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        try:
            found.setdefault(run_of(row).kind, row)
        except MpsimError:
            continue
    return found


@cache
def _speed(row: Row) -> float:
    """Return the speed at which a row comes to what it measured."""
    run = run_of(row)
    return speed_at(lambda speed: _step_s(run, speed), measured_s(row, run))


def _open(table: Table, inputs: Inputs) -> Predictor:
    setting = calibrating([*inputs("torchtitan", committed=True).rows, *table.rows])

    def predict(row: Row) -> Iterator[Outcome]:
        run = run_of(row)
        if run.kind not in setting:
            raise MpsimError(f"no row sets the speed of {', '.join(run.kind)}")
        first = setting[run.kind]
        speed = _speed(first)
        found = Outcome(case=case_of(row), measured=measured_s(row, run), predicted=_step_s(run, speed))
        sets = f"the speed of {', '.join(run.kind)}: {speed:.3f} of the roofline"
        yield found.set_by(case_of(first), sets, same=row.same(first, TORCHTITAN.columns))

    return predict


def case_of(row: Row) -> str:
    """Return the name of a row."""
    names = ("model", "n_gpus", "parallelism", "seq", "activation_ckpt", "techniques")
    model, gpus, parallelism, sequence, recompute, techniques = map(row.text, names)
    return f"{model}, {gpus} {row.text('hardware')[:4]}, {parallelism}, seq {sequence}, {recompute}, {techniques}"


TORCHTITAN = Adapter(
    file="torchtitan",
    about="FSDP, TP, PP and CP on 8 to 512 GPUs: rooflines at the speed of one row of each GPU, code and precision.",
    columns=("hardware", "n_gpus", "model", "seq", "parallelism", "local_batch", "activation_ckpt", "techniques",
             "tokens_per_s_per_gpu"),
    open=_open,
    case=case_of,
    goals={"time": 0.08},
)  # fmt: skip
