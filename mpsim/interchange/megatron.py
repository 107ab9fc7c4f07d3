"""A plan as Megatron's flags, and back (https://github.com/NVIDIA/Megatron-LM, megatron/training/arguments.py)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from mpsim.documents import made_now
from mpsim.errors import MpsimError
from mpsim.interchange.decoder_layers import layer_kinds
from mpsim.interchange.losses import Losses
from mpsim.interchange.megatron_layout import layout_text, parse_layout
from mpsim.interchange.plan_losses import check_said, list_unsaid, microbatch_of, pipeline_outermost
from mpsim.plan.model import Plan
from mpsim.plan.partition import stage_slices
from mpsim.plan.sharding import Sharding
from mpsim.workload.model import DTYPE_BYTES, Workload

__all__ = ["from_megatron", "to_megatron"]

_SIZES = {
    "tp": "tensor-model-parallel-size",
    "pp": "pipeline-model-parallel-size",
    "cp": "context-parallel-size",
    "ep": "expert-model-parallel-size",
}
_STRATEGIES = {2: "optim_grads", 3: "optim_grads_params"}
_RECOMPUTE = {"full": "full", "selective": "selective"}


def to_megatron(plan: Plan, workload: Workload | None = None) -> tuple[str, Losses]:
    """Return the flags of a plan, a line each, and what they do not say.

    Parameters
    ----------
    plan : Plan
        Of 1F1B, interleaved where a rank has several stages.
    workload : Workload, optional
        The decoder that it is for, where it says stages or leaves its batch open.

    Raises
    ------
    MpsimError
        What Megatron has no flag for.

    Examples
    --------
    >>> print(to_megatron(Plan(tp=2, batch=4))[0].split("ranks: ")[1])
    2
    --tensor-model-parallel-size 2
    --micro-batch-size 4
    --global-batch-size 4
    <BLANKLINE>
    """
    losses = Losses()
    check_said(plan, "Megatron", ("reduce_dtype",))
    list_unsaid(plan, "Megatron", losses)
    size = microbatch_of(plan, workload)
    flags = [f"--{flag} {getattr(plan, axis)}" for axis, flag in _SIZES.items() if getattr(plan, axis) > 1]
    flags += ["--sequence-parallel"] if plan.sharding.sequence else []
    flags += [f"--micro-batch-size {size}", f"--global-batch-size {size * plan.dp * plan.microbatches}"]
    flags += _pipeline(plan, workload, losses)
    flags += _placed(plan, losses)
    flags += _replicas(plan, workload, losses)
    flags += _recomputed(plan)
    flags += ["--cuda-graph-impl local"] if plan.launch == "graphs" else []
    head = [f"# {made_now('').made_by}: {plan.text}", *(f"# not said: {line}" for line in losses.lines)]
    return "\n".join([*head, f"# ranks: {plan.ranks}", *flags, ""]), losses


def _pipeline(plan: Plan, workload: Workload | None, losses: Losses) -> list[str]:
    """Return what says the stages, having checked the schedule."""
    if plan.pp == 1:
        return []
    chunks = max(plan.chunks, 1)
    alone = plan.microbatches == 1 and plan.schedule in ("naive", "gpipe")
    several = plan.schedule == "interleaved-1f1b"
    if not (several or ((plan.schedule == "1f1b" or alone) and chunks == 1)):
        raise MpsimError(
            f"plan has the schedule {plan.schedule_name!r}, Megatron runs 1f1b and, of several stages a rank,"
            " interleaved-1f1b: export such a plan"
        )
    if several and plan.microbatches % plan.pp:
        raise MpsimError(
            f"plan has {plan.microbatches} micro-batches, Megatron's interleaved schedule takes a multiple of"
            f" pp={plan.pp}: change one of them"
        )
    if several and plan.chunks == 1:
        raise MpsimError("plan has chunks=1: Megatron interleaves 2 stages a rank or more, use 1f1b")
    if plan.boundaries is None:
        losses.add("stages that the plan leaves open: Megatron cuts them evenly")
        return [f"--num-virtual-stages-per-pipeline-rank {plan.chunks or 2}"] if several else []
    if workload is None:
        raise MpsimError("plan says its stages by number of layer: give the WORKLOAD whose layers those are")
    return [f"--pipeline-model-parallel-layout {shlex.quote(_layout(plan.boundaries, workload, losses))}"]


def _layout(boundaries: tuple[int, ...], workload: Workload, losses: Losses) -> str:
    names = [layer.name for layer in workload.layers]
    kinds = layer_kinds(names)
    stages = ["".join(kinds[i] for i in layers) for layers in stage_slices(boundaries, len(names))]
    if sum("E" in stage for stage in stages) > 1 or "N" in stages:
        raise MpsimError(
            f"plan cuts within the embeddings or leaves the norm alone ({' | '.join(stages)}): Megatron's layouts have"
            " one E and one L, begin stages elsewhere"
        )
    if "N" in kinds and stages[-1] == "L":
        losses.add("the final norm is in the stage before the output: Megatron's own place for it holds")
    return layout_text([re.sub("E+", "E", stage.replace("N", "")) for stage in stages])


def _placed(plan: Plan, losses: Losses) -> list[str]:
    """Return the flag of the order in which ranks are numbered."""
    theirs = pipeline_outermost(plan.dp, plan.pp, plan.cp * plan.tp)
    moved = bool(plan.devices) and plan.devices != tuple(range(plan.ranks))
    if plan.devices == theirs:
        return []
    if moved:
        losses.add("which device stands at each rank: by the order of hosts, ranks as with --use-tp-pp-dp-mapping")
    return ["--use-tp-pp-dp-mapping"] if theirs else []


def _replicas(plan: Plan, workload: Workload | None, losses: Losses) -> list[str]:
    """Return what replicas shard, and the size of their buckets."""
    sharding = plan.sharding
    flags = ["--use-distributed-optimizer"] if sharding.zero else []
    if sharding.zero > 1:
        flags += ["--use-megatron-fsdp", f"--data-parallel-sharding-strategy {_STRATEGIES[sharding.zero]}"]
    if sharding.shards and sharding.zero > 1 and sharding.shards < plan.replicas:
        raise MpsimError(
            f"plan has shards={sharding.shards} at zero={sharding.zero}: of Megatron's, only zero=1 has it"
        )
    if sharding.shards and sharding.shards < plan.replicas:
        flags.append(f"--num-distributed-optimizer-instances {plan.replicas // sharding.shards}")
    if sharding.reduce_dtype not in ("", "bfloat16", "float32"):
        raise MpsimError(f"plan has reduce_dtype={sharding.reduce_dtype}: Megatron reduces in bfloat16 or float32")
    if sharding.reduce_dtype:
        narrow = sharding.reduce_dtype == "bfloat16"
        flags.append("--grad-reduce-in-bf16" if narrow else "--accumulate-allreduce-grads-in-fp32")
    if plan.replicas > 1:
        flags.append("--overlap-grad-reduce")
        flags += ["--overlap-param-gather"] if sharding.zero else []
    if plan.replicas > 1 and sharding.zero < 3:
        width = DTYPE_BYTES[sharding.reduce_dtype or (workload.precision.gradients if workload else "float32")]
        flags.append(f"--ddp-bucket-size {max(plan.bucket_bytes // width, 1)}")
        if plan.first_bucket_bytes != plan.bucket_bytes or plan.bucket_bytes % width or width != _width(flags):
            losses.add("the first bucket of gradients is as large as the others, in numbers and not in bytes")
    return flags


def _width(flags: Sequence[str]) -> int:
    """Return the bytes of a gradient's number, as flags say it."""
    return 2 if "--grad-reduce-in-bf16" in flags else 4


def _recomputed(plan: Plan) -> list[str]:
    what = plan.sharding.recompute
    if not what:
        return []
    if what not in _RECOMPUTE:
        raise MpsimError(f"plan has recompute={what}: Megatron recomputes full or selective, export such a plan")
    more = ["--recompute-method uniform", "--recompute-num-layers 1"] if what == "full" else []
    return [f"--recompute-granularity {what}", *more]


def from_megatron(text: str, workload: Workload | None = None, ranks: int | None = None) -> tuple[Plan, Losses]:
    """Return the plan that flags make, and what of them it does not say.

    Parameters
    ----------
    text : str
        Flags, or a script of a shell with flags in it; what is behind ``#`` is left out.
    workload : Workload, optional
        The decoder that it is for: without it stages stay open.
    ranks : int, optional
        How many run it, where the text does not say it (``# ranks: 16``, or ``--nproc-per-node`` and ``--nnodes``).

    Raises
    ------
    MpsimError
        No flags of Megatron's, values that are none, or a number of ranks that nobody says or that does not divide.

    Examples
    --------
    >>> from_megatron("--tensor-model-parallel-size 2 --micro-batch-size 1 --global-batch-size 8", ranks=4)[0].text
    'dp=2 tp=2 micro-batches=4'
    """
    flags, losses = _flags(text), Losses()
    sizes: dict[str, Any] = {axis: _number(flags, flag, 1) for axis, flag in _SIZES.items()}
    world = ranks or _ranks_said(text, flags)
    inner = sizes["tp"] * sizes["pp"] * sizes["cp"]
    if world is None:
        raise MpsimError("the flags do not say how many ranks run them: give --ranks")
    if world % inner:
        raise MpsimError(
            f"{world} ranks do not divide by tp × pp × cp = {inner}: give --ranks as many as run the flags"
        )
    dp = world // inner
    size, batch = _number(flags, "micro-batch-size", 0), _number(flags, "global-batch-size", 0)
    if not size:
        raise MpsimError("the flags have no --micro-batch-size: give a file with Megatron's flags")
    batch = batch or size * dp
    if batch % (size * dp):
        raise MpsimError(f"global batch {batch} does not divide by micro-batch {size} × dp {dp}: change one of them")
    fields = _stages_of(flags, sizes["pp"], workload, losses)
    placed = () if "use-tp-pp-dp-mapping" in flags else pipeline_outermost(dp, sizes["pp"], sizes["cp"] * sizes["tp"])
    fields |= {"devices": placed, "launch": "graphs" if _graphs(flags) else ""}
    fields |= _buckets_of(flags, dp * sizes["cp"], losses)
    sharding = _sharding_of(flags, dp * sizes["cp"], losses)
    return Plan(dp=dp, **sizes, batch=batch, microbatches=batch // (size * dp), sharding=sharding, **fields), losses


def _flags(text: str) -> dict[str, str]:
    """Return flag → value of a text; of one that stands alone, an empty one, and of one that stands twice the last."""
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise MpsimError(
            f"the text is no list of flags ({error}): give Megatron's flags, or a script with them"
        ) from None
    found: dict[str, str] = {}
    last = ""
    for word in (part for one in words for part in (one.split() if re.search(r"\s--", f" {one}") else [one])):
        if word.startswith("--"):
            last, equals, value = word[2:].partition("=")
            last = last.replace("_", "-")
            found[last] = value
            last = "" if equals else last
        elif last:
            found[last] = found[last] or word.rstrip(")")
            last = ""
    return found


def _number(flags: Mapping[str, str], flag: str, default: int) -> int:
    value = flags.get(flag, str(default))
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise MpsimError(f"--{flag} is {value!r}, expected a whole number: put it in where a shell's variable stands")
    return int(value)


def _ranks_said(text: str, flags: Mapping[str, str]) -> int | None:
    said = re.search(r"^# ranks: (\d{1,7})\s*$", text, re.MULTILINE | re.ASCII)
    if said:
        return int(said[1])
    each = flags.get("nproc-per-node", "")
    return _number(flags, "nproc-per-node", 1) * _number(flags, "nnodes", 1) if each.isdecimal() else None


def _graphs(flags: Mapping[str, str]) -> bool:
    return flags.get("cuda-graph-impl", "none") != "none" or "enable-cuda-graph" in flags


def _stages_of(flags: Mapping[str, str], pp: int, workload: Workload | None, losses: Losses) -> dict[str, Any]:
    """Return schedule, chunks and boundaries."""
    layout = flags.get("pipeline-model-parallel-layout")
    stages = parse_layout(layout.replace("\\", "")) if layout else []
    if len(stages) % pp or (stages and pp == 1 and len(stages) > 1):
        raise MpsimError(f"layout {layout!r} has {len(stages)} stages, pp={pp} does not divide them")
    chunks = len(stages) // pp if stages else _number(flags, "num-virtual-stages-per-pipeline-rank", 1)
    if per := _number(flags, "num-layers-per-virtual-pipeline-stage", 0):
        chunks = _number(flags, "num-layers", 0) // (pp * per)
    if pp == 1 or (chunks or 1) < 2:
        found: dict[str, Any] = {}
    else:
        found = {"schedule": "interleaved-1f1b", "chunks": chunks}
    if pp == 1:
        return found
    if workload is None:
        losses.add("which layers each stage has: give --workload, whose layers they are")
        return found
    return found | {"boundaries": _boundaries(stages or _even(flags, pp * max(chunks, 1), workload), workload)}


def _even(flags: Mapping[str, str], count: int, workload: Workload) -> list[str]:
    """Return the stages that Megatron cuts where no layout is given: blocks evenly, but for the first and last."""
    blocks = layer_kinds([layer.name for layer in workload.layers]).count("t")
    first, last = (_number(flags, f"decoder-{end}-pipeline-num-layers", 0) for end in ("first", "last"))
    rest = count - bool(first) - bool(last)
    left = blocks - first - last
    if rest < 1 or left % rest or left < rest:
        raise MpsimError(f"{left} layers do not divide evenly over {rest} stages: give the layout that is meant")
    each = [*([first] if first else []), *[left // rest] * rest, *([last] if last else [])]
    return [f"{'E' * (i == 0)}{'t' * n}{'L' * (i == count - 1)}" for i, n in enumerate(each)]


def _boundaries(stages: Sequence[str], workload: Workload) -> tuple[int, ...]:
    """Return the first layer of each stage but the first."""
    kinds = layer_kinds([layer.name for layer in workload.layers])
    letters = "".join(stages)
    blocks = kinds.count("t")
    if letters != "E" + "t" * blocks + "L":
        extra = ", and m, of multi-token prediction, which no workload has" if "m" in letters else ""
        raise MpsimError(
            f"layout has {letters.count('t')} layers between E and L{extra}, the workload {blocks}: give the workload"
            " that it is for"
        )
    widths = {"E": kinds.count("E"), "t": 1, "L": kinds.count("N") + 1}
    return tuple(accumulate(sum(widths[letter] for letter in stage) for stage in stages))[:-1]


def _buckets_of(flags: Mapping[str, str], replicas: int, losses: Losses) -> dict[str, Any]:
    if "ddp-bucket-size" not in flags:
        if replicas > 1 and not {"use-megatron-fsdp", "use-torch-fsdp2"} & flags.keys():
            losses.add("gradients in buckets of Megatron's own size: those of PyTorch stand for them")
        return {}
    size = _number(flags, "ddp-bucket-size", 1) * (2 if "grad-reduce-in-bf16" in flags else 4)
    return {"bucket_bytes": size, "first_bucket_bytes": size}


def _sharding_of(flags: Mapping[str, str], replicas: int, losses: Losses) -> Sharding:
    strategy = {name: zero for zero, name in _STRATEGIES.items()} | {"optim": 1, "no_shard": 0}
    named = flags.get("data-parallel-sharding-strategy", "no_shard")
    if named not in strategy:
        raise MpsimError(f"--data-parallel-sharding-strategy is {named!r}, expected one of {', '.join(strategy)}")
    zero = int("use-distributed-optimizer" in flags)
    if "use-megatron-fsdp" in flags or "use-custom-fsdp" in flags:
        zero = strategy[named]
    zero = 3 if "use-torch-fsdp2" in flags else zero
    if replicas == 1:
        zero = 0
    instances = _number(flags, "num-distributed-optimizer-instances", 1)
    if replicas % instances:
        raise MpsimError(f"{instances} instances of the distributed optimizer do not divide {replicas} replicas")
    narrow, wide = "grad-reduce-in-bf16" in flags, "accumulate-allreduce-grads-in-fp32" in flags
    return Sharding(
        zero=zero,
        shards=replicas // instances if zero and 1 < instances < replicas else 0,
        sequence="sequence-parallel" in flags and _number(flags, _SIZES["tp"], 1) > 1,
        reduce_dtype=("bfloat16" if narrow else "float32" if wide else "") if zero else "",
        recompute=_recompute_of(flags, losses),
    )


def _recompute_of(flags: Mapping[str, str], losses: Losses) -> str:
    what = flags.get("recompute-granularity", "selective" if "recompute-activations" in flags else "")
    if what not in ("", *_RECOMPUTE):
        raise MpsimError(f"--recompute-granularity is {what!r}, expected full or selective")
    if what == "full" and (flags.get("recompute-method") == "block" or _number(flags, "recompute-num-layers", 1) != 1):
        losses.add("recompute of some layers, or of several at once: each layer by itself stands for it")
    if what == "selective" and flags.get("recompute-modules", "core_attn") != "core_attn":
        losses.add(f"recompute of {flags['recompute-modules']}: of the attention core alone here")
    return what
