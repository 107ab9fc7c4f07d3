"""Recipes of Megatron-Bridge on 8 to 1,024 GPUs of four systems (NVIDIA's performance summary, release 25.11).

One Llama-8B row of each system and precision sets the speed beside the roofline; all others judge. What a recipe
recomputes, overlaps and how it lays layers out is not in the table. As the authors' scripts have it for Llama
(scripts/performance/configs/llama3 and llama31), products and tensor-parallel exchanges go piece by piece beside one
another, so that exchanges are hidden, replicas reduce in bf16 beside backward, and nothing is recomputed. Mixtures of
experts are judged apart: their exchanges of tokens are taken to be waited for, and launching their many small kernels,
which some of these rows are bound by, is in no roofline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from mpsim.errors import MpsimError
from mpsim.lowering.rescaling import roofline_of
from mpsim.plan.model import Plan
from mpsim.simulation.run import simulate
from mpsim.validate.published.decoder import Decoder, Rates, Roofline, Shared, Slowed, block, embedding, head
from mpsim.validate.published.folding import Machine, State, layer, plan_of, speed_at, workload
from mpsim.validate.published.llama import named_decoder
from mpsim.validate.published.model import Adapter, Inputs, Outcome, Predictor
from mpsim.validate.published.table import Row, Table

__all__ = ["BRIDGE", "SETS", "STATE", "UPDATE_BYTES", "Run", "case_of", "rates_of", "run_of"]

_MACHINES = {
    "DGX-H100": Machine("H100-SXM5-80GB", "nvlink4", "ib_ndr"),
    "DGX-B200": Machine("B200-SXM", "nvlink5", "ib_ndr"),
    "DGX-GB200": Machine("GB200", "nvlink5", "ib_ndr", 72),
    "DGX-GB300": Machine("B300-SXM", "nvlink5", "ib_xdr", 72),
}
# What linear layers multiply in; attention stays in bf16.
_PRECISIONS = {"BF16": "", "FP8-CS": "float8_e4m3fn", "FP8-MX": "mxfp8"}
SETS = "LLAMA3_8B"
STATE = State(gradient="bfloat16")
UPDATE_BYTES = 50
# More are replayed as one pipeline, whose replicas reduce beside backward and are not seen.
_MOST_TASKS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a row says was run."""

    machine: Machine
    decoder: Decoder
    shared: Shared
    dp: int
    pp: int
    chunks: int
    microbatches: int
    fsdp: bool
    linear: str
    kind: tuple[str, str]
    measured_s: float


def run_of(row: Row) -> Run:
    """Return what a row says was run.

    Raises
    ------
    MpsimError
        Of a kind that is not known here, or sizes that do not divide.
    """
    system, precision = row.text("system"), row.text("precision")
    if system not in _MACHINES or precision not in _PRECISIONS:
        raise MpsimError(f"system {system!r} in {precision!r} is not known here")
    tp, pp, cp, ep = (row.count(name, 1) for name in ("tp", "pp", "cp", "ep"))
    chunks = row.count("vp", 1) if pp > 1 else 1
    gpus, batch, size = row.count("gpus"), row.count("global_batch"), row.count("micro_batch")
    dp, rest = divmod(gpus, tp * pp * cp)
    microbatches, left = divmod(batch, size * dp) if dp else (0, 1)
    decoder = named_decoder(row.text("model"))
    if rest or left or not microbatches or pp * chunks > decoder.layers + 2:
        raise MpsimError(f"{row.where}: {gpus} GPUs, a batch of {batch} or {decoder.layers} layers do not divide")
    if pp > 1 and chunks > 1 and microbatches % pp:
        raise MpsimError(
            f"{row.where}: {microbatches} micro-batches do not divide over pp {pp}, as interleaved 1F1B asks"
        )
    shared = Shared(size, row.count("sequence"), tp, cp, ep, sequence_parallel=tp > 1, context="all_gather")
    tokens = batch * row.count("sequence")
    fsdp = row.text("fsdp_group") != "0" and row.count("fsdp_group", 0) > 0
    return Run(
        machine=_MACHINES[system], decoder=decoder, shared=shared, dp=dp, pp=pp, chunks=chunks,
        microbatches=microbatches, fsdp=fsdp, linear=_PRECISIONS[precision],
        kind=(system, precision), measured_s=tokens / (row.number("tokens_per_s_per_gpu") * gpus),
    )  # fmt: skip


def rates_of(run: Run) -> tuple[Rates, Rates]:
    """Return the rooflines of a run's blocks, and of all else."""
    spec = roofline_of(run.machine.device)
    return Roofline(spec, "bfloat16", linear=run.linear), Roofline(spec, "bfloat16")


def _step_s(run: Run, speed: float) -> float:
    """Return the step of a run at a speed beside the roofline."""
    shared, decoder, machine = run.shared, run.decoder, run.machine
    rates, plain = (Slowed(one, speed) for one in rates_of(run))
    exchange = machine.exchanges({"tp": shared.tp, "cp": shared.cp, "ep": shared.ep})
    part = block(decoder, shared, rates, exchange)
    if not decoder.experts:
        part.exchanged_s = part.exchanged_back_s = 0.0
    ends = (embedding(decoder, shared, plain, exchange), head(decoder, shared, plain, exchange))
    replicas = run.dp * shared.cp

    def update_s(count: float) -> float:
        return plain.passes(UPDATE_BYTES * count)

    layers = [
        layer("embedding", ends[0], STATE, update_s=update_s),
        *(layer(f"block{i}", part, STATE, update_s=update_s) for i in range(decoder.layers)),
        layer("head", ends[1], STATE, update_s=update_s),
    ]
    tasks = replicas * run.microbatches * 2 * (decoder.layers + 2 if run.fsdp else run.pp * run.chunks)
    if tasks > _MOST_TASKS:
        replicas = 1
    plan = plan_of(
        dp=replicas, pp=run.pp, microbatches=run.microbatches, chunks=run.chunks, zero=3 if run.fsdp else 1,
        layers=decoder.layers, first=1,
    )  # fmt: skip
    work = workload("bridge", layers, STATE, machine.device, 2 * shared.between * decoder.hidden)
    return simulate(work, machine.folded(replicas * run.pp, shared.tp), _beside(plan), spans=False).step_s


def _beside(plan: Plan) -> Plan:
    """Return a plan whose replicas reduce buckets while backward goes on."""
    return replace(plan, bucket_bytes=2**28, first_bucket_bytes=2**28)


def _calibrating(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    """Return the Llama-8B row of each system and precision."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.text("model") == SETS:
            found.setdefault((row.text("system"), row.text("precision")), row)
    return found


@cache
def _speed(row: Row) -> float:
    """Return the speed at which a row comes to what it measured."""
    run = run_of(row)
    return speed_at(lambda speed: _step_s(run, speed), run.measured_s)


def _open(table: Table, inputs: Inputs) -> Predictor:
    setting = _calibrating([*inputs("megatron_bridge_recipes", committed=True).rows, *table.rows])

    def predict(row: Row) -> Iterator[Outcome]:
        if row.text("model").startswith("DeepSeek"):
            raise MpsimError("attention of DeepSeek's latent kind is not counted here")
        run = run_of(row)
        if run.kind not in setting:
            raise MpsimError(f"no {SETS} row of {run.kind[0]} in {run.kind[1]} sets its speed")
        first = setting[run.kind]
        speed = _speed(first)
        what = "time of experts" if run.decoder.experts else "time"
        found = Outcome(case=case_of(row), what=what, measured=run.measured_s, predicted=_step_s(run, speed))
        sets = f"the speed of {run.kind[0]} in {run.kind[1]}: {speed:.3f} of its roofline"
        yield found.set_by(case_of(first), sets, same=row.same(first, BRIDGE.columns))

    return predict


def case_of(row: Row) -> str:
    """Return the name of a row."""
    names = ("model", "gpus", "system", "precision", "tp", "pp", "cp", "ep")
    model, gpus, system, precision, tp, pp, cp, ep = map(row.text, names)
    return f"{model}, {gpus} of {system}, {precision}, tp={tp} pp={pp} cp={cp} ep={ep}"


BRIDGE = Adapter(
    file="megatron_bridge_recipes",
    about="Recipes of Llama and Qwen shapes on four systems, at the speed of one Llama-8B row of each and precision.",
    columns=("model", "system", "gpus", "precision", "global_batch", "micro_batch", "sequence", "fsdp_group", "tp",
             "pp", "cp", "vp", "ep", "tokens_per_s_per_gpu"),
    open=_open,
    case=case_of,
    goals={"time": 0.10},
)  # fmt: skip
