"""A plan as torchtitan's TOML, and back (https://github.com/pytorch/torchtitan, torchtitan/config/job_config.py).

Its versions without TOML have the same names as fields and flags (``--parallelism.tensor_parallel_degree``).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from mpsim.documents import made_now
from mpsim.errors import MpsimError
from mpsim.interchange.decoder_layers import block_numbers, layer_kinds
from mpsim.interchange.losses import Losses
from mpsim.interchange.plan_losses import check_said, list_unsaid, microbatch_of, pipeline_outermost
from mpsim.interchange.torch_schedules import class_name, from_class
from mpsim.plan.model import MIB, Plan
from mpsim.plan.partition import stage_slices
from mpsim.plan.schedule_file import rows_schedule
from mpsim.plan.schedules import Rows
from mpsim.plan.sharding import Sharding
from mpsim.workload.model import Workload

__all__ = ["from_torchtitan", "schedule_file", "to_torchtitan"]

_BUCKET_BYTES = 100 * MIB  # of DistributedDataParallel, in torchtitan's own call
_RESHARD = {"blocks": "always", "none": "never"}
_MULTI = ("LoopedBFS", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV")


def to_torchtitan(plan: Plan, workload: Workload | None = None, csv: str = "") -> tuple[str, Losses]:
    """Return the TOML of a plan, and what it does not say.

    Parameters
    ----------
    plan : Plan
        To be written.
    workload : Workload, optional
        The decoder that it is for, where it says stages or leaves its batch open.
    csv : str
        The file that its rows are written to, where its schedule is none of torch's.

    Raises
    ------
    MpsimError
        What torchtitan has no option for.

    Examples
    --------
    >>> text, _ = to_torchtitan(Plan(dp=2, batch=8, sharding=Sharding(zero=3, gather_dtype="bfloat16")))
    >>> print(text.partition(chr(10))[2])
    # ranks: 2
    [training]
    local_batch_size = 4
    global_batch_size = 8
    mixed_precision_param = "bfloat16"
    mixed_precision_reduce = "float32"
    <BLANKLINE>
    [parallelism]
    data_parallel_replicate_degree = 1
    data_parallel_shard_degree = 2
    fsdp_reshard_after_forward = "always"
    <BLANKLINE>
    [activation_checkpoint]
    mode = "none"
    <BLANKLINE>
    """
    losses = Losses()
    _refuse(plan)
    list_unsaid(plan, "torchtitan", losses)
    size = microbatch_of(plan, workload)
    training: dict[str, Any] = {
        "local_batch_size": size * (plan.microbatches if plan.pp > 1 else 1),
        "global_batch_size": size * plan.microbatches * plan.dp,
    }
    training |= _types(plan, workload, losses)
    sharding = plan.sharding
    shards = (sharding.shards or plan.replicas) // plan.cp if sharding.zero else 1
    parallel: dict[str, Any] = {
        "data_parallel_replicate_degree": plan.dp // shards,
        "data_parallel_shard_degree": shards,
    }
    if sharding.zero:
        parallel["fsdp_reshard_after_forward"] = _RESHARD[sharding.reshard_after_forward]
    for name, degree in (("tensor", plan.tp), ("context", plan.cp), ("expert", plan.ep), ("pipeline", plan.pp)):
        parallel |= {f"{name}_parallel_degree": degree} if degree > 1 else {}
    parallel |= _pipeline(plan, size, workload, csv, losses) if plan.pp > 1 else {}
    _list_more(plan, losses)
    tables = {
        "training": training,
        "parallelism": parallel,
        "activation_checkpoint": {"mode": sharding.recompute or "none"},
    }
    head = [f"# {made_now('').made_by}: {plan.text}", *(f"# not said: {line}" for line in losses.lines)]
    head.append(f"# ranks: {plan.ranks}")
    return "\n".join(head) + "\n" + "\n".join(_table(name, table) for name, table in tables.items()), losses


def _refuse(plan: Plan) -> None:
    sharding = plan.sharding
    check_said(plan, "torchtitan", ("reshard_after_forward", "gather_dtype", "reduce_dtype"))
    shards = sharding.shards or plan.replicas
    refused = {
        f"zero={sharding.zero}: torchtitan shards as DistributedDataParallel (0) or fully_shard (3)": (
            sharding.zero in (1, 2)
        ),
        f"tp={plan.tp} without sequence: torchtitan's ranks that share layers share sequences too": (
            plan.tp > 1 and not sharding.sequence
        ),
        "reshard_after_forward=all: torchtitan keeps what is in no block": sharding.reshard_after_forward == "all",
        f"recompute={sharding.recompute}: torchtitan recomputes full, what it calls selective is by operator": (
            sharding.recompute not in ("", "full")
        ),
        f"shards={sharding.shards}, which cp={plan.cp} does not divide": bool(sharding.zero and shards % plan.cp),
        f"gather_dtype={sharding.gather_dtype}: torchtitan gathers in bfloat16 or float32": (
            sharding.gather_dtype not in ("", "bfloat16", "float32")
        ),
        f"reduce_dtype={sharding.reduce_dtype}: torchtitan reduces in float32": (
            sharding.reduce_dtype not in ("", "float32")
        ),
        f"cp={plan.cp} without zero=3: torchtitan's replicas shard where they share sequences": (
            plan.cp > 1 and not sharding.zero
        ),
        "launch=graphs: torchtitan launches one kernel after another": plan.launch == "graphs",
    }
    for what, is_so in refused.items():
        if is_so:
            raise MpsimError(f"plan has {what}: export another plan")


def _types(plan: Plan, workload: Workload | None, losses: Losses) -> dict[str, str]:
    """Return the types of parameters, and those in which replicas exchange them."""
    sharding, name = plan.sharding, workload.precision.name if workload else ""
    found = {"dtype": "bfloat16"} if name == "bf16" else {}
    gathered = sharding.gather_dtype or {"bf16": "bfloat16", "bf16-mixed": "bfloat16", "fp32": "float32"}.get(name, "")
    if gathered:
        return found | {"mixed_precision_param": gathered, "mixed_precision_reduce": "float32"}
    losses.add("the type that parameters are gathered and multiplied in: torchtitan's own is bfloat16")
    return found


def _list_more(plan: Plan, losses: Losses) -> None:
    theirs = pipeline_outermost(plan.dp, plan.pp, plan.cp * plan.tp)
    moved = plan.devices and plan.devices != tuple(range(plan.ranks))
    if (theirs and plan.devices != theirs) or (moved and not theirs):
        losses.add("which device stands at each rank: in torchtitan's mesh stages are outermost, then replicas")
    if plan.dp > 1 and not plan.sharding.zero and (plan.bucket_bytes, plan.first_bucket_bytes) != (_BUCKET_BYTES,) * 2:
        losses.add("buckets of gradients: torchtitan's are of 100 MiB")


def _pipeline(plan: Plan, size: int, workload: Workload | None, csv: str, losses: Losses) -> dict[str, Any]:
    """Return the options of stages and their schedule."""
    name = class_name(plan)
    if not name and not csv:
        raise MpsimError(
            f"schedule {plan.schedule_name!r} is none of torch's classes for these micro-batches: its rows go into a"
            " file of their own, name one (.csv)"
        )
    found: dict[str, Any] = {"pipeline_parallel_schedule": name or "PipelineScheduleMulti"}
    found |= {} if name else {"pipeline_parallel_schedule_csv": csv}
    found["pipeline_parallel_microbatch_size"] = size
    if plan.boundaries is None:
        losses.add("stages that the plan leaves open: torchtitan cuts them itself")
        return found
    if workload is None:
        raise MpsimError("plan says its stages by number of layer: give the WORKLOAD whose layers those are")
    names = _names([layer.name for layer in workload.layers])
    found["module_fqns_per_model_part"] = [
        list(dict.fromkeys(names[i] for i in layers)) for layers in stage_slices(plan.boundaries, len(names))
    ]
    if len({part for parts in found["module_fqns_per_model_part"] for part in parts}) < sum(
        map(len, found["module_fqns_per_model_part"])
    ):
        raise MpsimError("plan cuts within the embeddings: torchtitan has one, begin the second stage elsewhere")
    return found


def _names(layers: Sequence[str]) -> list[str]:
    """Return torchtitan's names of a decoder's layers."""
    blocks = iter(block_numbers(layers))
    words = {"E": "tok_embeddings", "N": "norm", "L": "output"}
    return [f"layers.{next(blocks)}" if kind == "t" else words[kind] for kind in layer_kinds(layers)]


def _table(name: str, values: Mapping[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def from_torchtitan(
    text: str, workload: Workload | None = None, ranks: int | None = None, rows: Rows | None = None
) -> tuple[Plan, Losses]:
    """Return the plan that a TOML of torchtitan's makes, and what of it the plan does not say.

    Parameters
    ----------
    text : str
        The TOML.
    workload : Workload, optional
        The decoder that it is for: without it stages stay open.
    ranks : int, optional
        How many run it, where the degree of sharding is left open and the text does not say it (``# ranks: 16``).
    rows : rows, optional
        Of the file that it names as schedule.

    Raises
    ------
    MpsimError
        No such TOML, a degree that does not divide, or a number of ranks that nobody says.

    Examples
    --------
    >>> from_torchtitan("[parallelism]\\ntensor_parallel_degree = 2", ranks=4)[0].text
    'dp=2 tp=2 sequence zero=3 gather=bfloat16 reduce=float32'
    """
    config, losses = _config(text), Losses()
    parallel, training = config["parallelism"], config["training"]
    tp, cp, ep, pp = (
        _degree(parallel, f"{name}_parallel_degree", 1) for name in ("tensor", "context", "expert", "pipeline")
    )
    replicate = _degree(parallel, "data_parallel_replicate_degree", 1)
    shard = _shard_degree(parallel, replicate * tp * cp * pp, ranks or _ranks_said(text))
    dp = replicate * shard
    local = _degree(training, "local_batch_size", 8)
    batch = _degree(training, "global_batch_size", local * dp, open_=-1)
    size = _degree(parallel, "pipeline_parallel_microbatch_size", 1) if pp > 1 else local
    if local % size or batch % (local * dp):
        raise MpsimError(
            f"global batch {batch} does not divide by local batch {local} × dp {dp}, or that by micro-batch {size}"
        )
    if pp > 1 and batch > local * dp:
        losses.add("steps of several local batches: the pipeline fills once, not once for each")
    fields: dict[str, Any] = {"dp": dp, "pp": pp, "tp": tp, "cp": cp, "ep": ep, "batch": batch}
    fields |= {"microbatches": batch // (size * dp), "devices": pipeline_outermost(dp, pp, cp * tp)}
    if dp > 1 and not (shard * cp > 1):
        fields |= {"bucket_bytes": _BUCKET_BYTES, "first_bucket_bytes": _BUCKET_BYTES}
    fields |= _stages_of(parallel, pp, workload, rows, losses)
    return Plan(**fields, sharding=_sharding_of(config, (replicate, shard, cp, tp, pp), losses)), losses


def schedule_file(text: str) -> str:
    """Return the file of rows that a TOML names as its schedule; ``""`` if it names none.

    Examples
    --------
    >>> schedule_file("[parallelism]\\npipeline_parallel_schedule_csv = 'mine.csv'")
    'mine.csv'
    """
    return str(_config(text)["parallelism"].get("pipeline_parallel_schedule_csv") or "")


def _config(text: str) -> dict[str, dict[str, Any]]:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MpsimError(f"the text is no TOML ({error}): give a configuration of torchtitan's") from None
    tables = {name: found.get(name, {}) for name in ("training", "parallelism", "activation_checkpoint")}
    if not any(tables.values()) or not all(isinstance(table, dict) for table in tables.values()):
        raise MpsimError("the TOML has no table [training] or [parallelism]: give a configuration of torchtitan's")
    return tables


def _degree(table: Mapping[str, Any], name: str, default: int, open_: int | None = None) -> int:
    value = table.get(name, default)
    if value == open_:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 10**9:
        raise MpsimError(f"{name} is {value!r}, expected a whole number, 1 or more")
    return value


def _shard_degree(parallel: Mapping[str, Any], others: int, ranks: int | None) -> int:
    if parallel.get("data_parallel_shard_degree", -1) != -1:
        shard = _degree(parallel, "data_parallel_shard_degree", 1)
        if ranks is not None and ranks != shard * others:
            raise MpsimError(f"the degrees make {shard * others} ranks, {ranks} were said: change one of them")
        return shard
    if ranks is None:
        raise MpsimError("data_parallel_shard_degree is left open, and nobody says how many ranks run it: give --ranks")
    if ranks % others:
        raise MpsimError(f"{ranks} ranks do not divide by the other degrees' {others}: change one of them")
    return ranks // others


def _ranks_said(text: str) -> int | None:
    said = re.search(r"^# ranks: (\d{1,7})\s*$", text, re.MULTILINE | re.ASCII)
    return int(said[1]) if said else None


def _stages_of(
    parallel: Mapping[str, Any], pp: int, workload: Workload | None, rows: Rows | None, losses: Losses
) -> dict[str, Any]:
    """Return schedule, chunks and boundaries."""
    if pp == 1:
        return {}
    name, file = str(parallel.get("pipeline_parallel_schedule", "1F1B")), parallel.get("pipeline_parallel_schedule_csv")
    if file and rows is None:
        raise MpsimError(f"the schedule's rows are in {file!r}: give them too")
    parts = parallel.get("module_fqns_per_model_part") or []
    if not _are_parts(parts):
        raise MpsimError("module_fqns_per_model_part is no list of lists of names")
    if parts and len(parts) % pp:
        raise MpsimError(f"module_fqns_per_model_part has {len(parts)} parts, pp={pp} does not divide them")
    found: dict[str, Any] = {"schedule": rows_schedule(rows) if file and rows else from_class(name)}
    several = any(name.lower() == one.lower() for one in _MULTI)
    if several and not file:
        found["chunks"] = len(parts) // pp if parts else 2
    if parts and workload is not None:
        found["boundaries"] = _boundaries(parts, workload)
    else:
        losses.add("which layers each stage has" + (": give --workload, whose layers they are" if parts else ""))
    return found


def _are_parts(parts: Any) -> bool:
    lists = isinstance(parts, list) and all(isinstance(part, list) and part for part in parts)
    return lists and all(isinstance(name, str) for part in parts for name in part)


def _boundaries(parts: Sequence[Sequence[str]], workload: Workload) -> tuple[int, ...]:
    names = _names([layer.name for layer in workload.layers])
    known = {"lm_head": "output", "embed_tokens": "tok_embeddings"}
    listed = [known.get(name, name) for part in parts for name in part]
    if listed != list(dict.fromkeys(names)):
        wrong = next((name for name in listed if name not in names), "their order, or some that are missing")
        raise MpsimError(
            f"module_fqns_per_model_part has not the workload's layers ({wrong}): give the workload that it is for"
        )
    return tuple(accumulate(sum(names.count(known.get(name, name)) for name in part) for part in parts))[:-1]


def _sharding_of(config: Mapping[str, Any], degrees: tuple[int, int, int, int, int], losses: Losses) -> Sharding:
    replicate, shard, cp, tp, pp = degrees
    parallel, training = config["parallelism"], config["training"]
    again = config["activation_checkpoint"].get("mode", "selective")
    if again not in ("none", "full"):
        losses.add(f"activation_checkpoint {again}: nothing is computed again here")
    common: dict[str, Any] = {
        "recompute": "full" if again == "full" else "",
        "sequence": tp > 1 and bool(parallel.get("enable_sequence_parallel", True)),
    }
    if shard * cp == 1:
        return Sharding(**common)
    policy = parallel.get("fsdp_reshard_after_forward", "default")
    if policy not in ("default", *_RESHARD.values()):
        raise MpsimError(f"fsdp_reshard_after_forward is {policy!r}, expected default, always or never")
    kept = policy == "never" or (policy == "default" and pp > 1)
    return Sharding(
        **common,
        zero=3,
        shards=shard * cp if replicate > 1 else 0,
        reshard_after_forward="none" if kept else "blocks",
        gather_dtype=str(training.get("mixed_precision_param", "bfloat16")),
        reduce_dtype=str(training.get("mixed_precision_reduce", "float32")),
    )
