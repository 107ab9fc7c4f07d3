"""A plan as one script that torch runs: mesh, shared layers, replicas, stages and their schedule."""

from __future__ import annotations

import json
import pprint
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsim.calls import checked
from mpsim.documents import made_now
from mpsim.errors import MpsimError
from mpsim.interchange.losses import Losses
from mpsim.interchange.torch_schedules import class_name, rows_as_csv
from mpsim.lowering.crossings import crossings, tensor_bytes
from mpsim.lowering.recomputation import recomputed_layers
from mpsim.lowering.stages import microbatch_size
from mpsim.lowering.units import check_units, is_numbered, path_of
from mpsim.plan.model import MIB, Plan
from mpsim.plan.partition import stage_slices
from mpsim.plan.recompute import parse_recompute
from mpsim.plan.shape import shape_of
from mpsim.units import format_bytes
from mpsim.workload.model import Workload
from mpsim.workload.split import Split

if TYPE_CHECKING:
    from mpsim.emulate.script_model import ScriptModel

__all__ = ["torch_script"]

_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "momentum": "SGD(momentum)", "": "AdamW"}
_PRECISIONS = {"": "fp32", "fp32": "fp32", "tf32": "tf32", "bf16": "bf16", "bf16-mixed": "bf16-mixed"}
_RESHARD = {"blocks": None, "all": True, "none": False}


@checked
def torch_script(
    plan: Plan | str | Path, workload: Workload | str | Path, model: str, *, sizes: Mapping[str, Any] | None = None
) -> tuple[str, Losses]:
    """Return a script that ``torchrun`` runs a plan with, and what it does otherwise than was predicted.

    Parameters
    ----------
    plan : Plan, str or path
        Its stages' boundaries said, if it has several.
    workload : Workload or path
        What was traced of the model: its layers are what the plan places.
    model : str
        What the script makes and trains: a name of the zoo, ``package.module:factory`` or ``hf:PATH``.
    sizes : mapping of str to object, optional
        What is changed of it.

    Raises
    ------
    MpsimError
        The plan has what torch's pipelines, `fully_shard` and tensor-parallel styles cannot say, or the model cannot be
        cut or shared so.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("mnist-mlp", [Layer.given(f"fc{i}", forward_s=1, backward_s=1) for i in range(1, 5)])
    >>> text, losses = torch_script("dp=2", work, "mnist-mlp")
    >>> text.splitlines()[0]
    '\"\"\"Train mnist-mlp as planned: dp=2.'
    """
    from mpsim.emulate.script.text import joined_modules
    from mpsim.emulate.script_model import script_model
    from mpsim.workload.source import resolve_model

    plan, workload, sizes = Plan.of(plan), Workload.of(workload), sizes or {}
    _refuse(plan, workload)
    stages = _stages(plan, workload)
    size = microbatch_size(workload, plan)
    of_model = script_model(resolve_model(model, sizes), stages, microbatch=size, tp=plan.tp)
    losses = _losses(plan, workload, of_model)
    settings = _settings(plan, workload, stages, of_model)
    if of_model.whole:  # its one layer is the model
        settings |= {"stages": [[""]]} | {name: [] for name in ("units",) if name in settings}
        settings |= {name: [""] for name in ("recompute",) if settings.get(name) == stages[0]}
    imports, body = joined_modules()
    return _text(plan, workload, _make(model, sizes), (settings, imports, body), losses), losses


def _refuse(plan: Plan, workload: Workload) -> None:
    """Refuse what no script here says."""
    sharding, precision = plan.sharding, workload.precision.name
    again = parse_recompute(sharding.recompute)
    not_said = {
        f"cp={plan.cp}: a script of torch's shares no sequences, export a plan with cp=1": plan.cp > 1,
        f"ep={plan.ep}: a script of torch's shares no experts, export a plan with ep=1": plan.ep > 1,
        f"zero={sharding.zero}: torch shards as DistributedDataParallel (0) or fully_shard (3)": sharding.zero
        in (1, 2),
        "sequence: a script of torch's shares layers alone, export a plan without": sharding.sequence,
        f"offload={sharding.offload}: a script of torch's keeps activations on the device": bool(sharding.offload),
        "launch=graphs: a script of torch's launches one kernel after another": plan.launch == "graphs",
        f"recompute={sharding.recompute}: a script of torch's recomputes layers or stages, of all micro-batches": (
            again.what == "selective" or again.except_last
        ),
        f"precision {precision} of {workload.name!r}: a script trains in {', '.join(_PRECISIONS)[2:]}": (
            precision not in _PRECISIONS
        ),
        f"optimizer {workload.optimizer!r}: a script has {', '.join(filter(None, _OPTIMIZERS))}": (
            workload.optimizer not in _OPTIMIZERS
        ),
    }
    for what, is_so in not_said.items():
        if is_so:
            raise MpsimError(f"plan has {what}")
    _check_placed(plan)
    if plan.dp > 1 and not sharding.zero and plan.pp > 1 and any(one.kind == "W" for row in plan.rows() for one in row):
        raise MpsimError(
            f"schedule {plan.schedule_name!r} splits backward, and DistributedDataParallel reduces no gradient of its"
            " second part: export a plan with zero=3, or dp=1"
        )


def _check_placed(plan: Plan) -> None:
    """Refuse devices that torchrun's ranks, numbered in their order, cannot stand for."""
    if plan.devices and sorted(plan.devices) != list(range(plan.ranks)):
        raise MpsimError(
            f"plan places its {plan.ranks} ranks on devices {list(plan.devices)}, torchrun numbers its ranks 0 to"
            f" {plan.ranks - 1}: export a plan for the devices that it uses alone"
        )
    for rank in range(plan.ranks if plan.devices else 0):
        for axis in ("dp", "pp", "tp"):
            placed = [plan.devices[one] for one in plan.grid.group(rank, axis)]
            if placed != sorted(placed):
                raise MpsimError(
                    f"plan places the ranks of an axis, {axis}, on devices {placed}, which torch numbers in ascending"
                    " order: export it unplaced, and give torchrun the hosts in the plan's order"
                )


def _stages(plan: Plan, workload: Workload) -> list[list[str]]:
    """Return the names of the layers of each stage."""
    names = [layer.name for layer in workload.layers]
    count = shape_of(plan.rows()).stages if plan.pp > 1 else 1
    if count > 1 and plan.boundaries is None:
        raise MpsimError("plan leaves its stages open: give a TOPOLOGY to cut it for, or a plan with --stages")
    boundaries = plan.boundaries or ()
    if len(boundaries) != count - 1:
        raise MpsimError(f"plan has {len(boundaries)} stage boundaries, its {count} stages need {count - 1}")
    return [[names[i] for i in layers] for layers in stage_slices(boundaries, len(names))]


def _settings(plan: Plan, workload: Workload, stages: list[list[str]], of_model: ScriptModel) -> dict[str, Any]:
    """Return what the script's `Settings` are made of; what is at its default goes unsaid."""
    sharding, several = plan.sharding, len(stages) > 1
    shards = sharding.shards
    data = {"replica": plan.dp // shards, "shard": shards} if shards and shards < plan.dp else {"dp": plan.dp}
    found: dict[str, Any] = {
        "grid": {**data, "pp": plan.pp, "tp": plan.tp},
        "ranks": list(plan.devices or range(plan.ranks)),
        "microbatch": microbatch_size(workload, plan),
        "microbatches": plan.microbatches,
        "stages": stages,
        "stage_ranks": list(shape_of(plan.rows()).home) if several else [0],
        "precision": _PRECISIONS[workload.precision.name],
        "optimizer": _OPTIMIZERS[workload.optimizer],
    }
    if several:
        found |= {"schedule": class_name(plan) or rows_as_csv(plan), "skipped": of_model.cut.skipped}
        found["sent"] = _sent(plan, workload, stages, of_model)
    if of_model.styles:
        found["styles"] = of_model.styles
    if sharding.zero:
        found |= _sharded(plan, workload)
    elif _settles_bucket(plan):
        found["bucket_mib"] = plan.bucket_bytes / MIB
    if again := _recomputed(plan, workload):
        found["recompute"] = again
    return found


def _settles_bucket(plan: Plan) -> bool:
    """Whether gradients are all-reduced in buckets of another size than DistributedDataParallel's own."""
    return plan.dp > 1 and not plan.sharding.zero and (plan.bucket_bytes, plan.first_bucket_bytes) != (25 * MIB, MIB)


def _sent(plan: Plan, workload: Workload, stages: list[list[str]], of_model: ScriptModel) -> list[Any]:
    """Return the type and shape of what each stage returns on a rank."""
    from mpsim.emulate.script_model import sent_on_a_rank

    size, split = microbatch_size(workload, plan), Split(tp=plan.tp)
    found, last = [], 0
    for sent, layers in zip(of_model.cut.sent[:-1], stages, strict=False):
        last += len(layers)
        crossing = crossings(workload, size, split)[last - 1].tensors
        shapes = []
        for tensor in (one for one in workload.tensors if one.name in crossing):
            own = next((one.shape for one in tensor.shards if one.split == split), tensor.shape)
            scaled = [
                tuple(size if i == tensor.batch_dim else n for i, n in enumerate(shape))
                for shape in (tensor.shape, own)
            ]
            shapes.append((scaled[0], scaled[1]))
        found.append(sent_on_a_rank(sent, shapes))
    return [*found, of_model.cut.sent[-1]]


def _sharded(plan: Plan, workload: Workload) -> dict[str, Any]:
    """Return how replicas shard."""
    sharding, names = plan.sharding, [layer.name for layer in workload.layers]
    check_units(names, sharding.units)
    numbered = is_numbered(names)
    paths = dict.fromkeys(path_of(name, sharding.units, numbered) for name in names)
    dtype = sharding.gather_dtype or ("bfloat16" if workload.precision.name == "bf16-mixed" else "")
    return {
        "zero": 3,
        "units": [path for path in paths if path],
        "reshard": False if sharding.keep_gathered else _RESHARD[sharding.reshard_after_forward],
        "ahead": sharding.gather_ahead,
        "param_dtype": dtype,
        "reduce_dtype": sharding.reduce_dtype,
        "accumulate": sharding.accumulate,
        "keep": sharding.keep_gathered,
    }


def _recomputed(plan: Plan, workload: Workload) -> list[str]:
    """Return the layers that are computed again, or ``stages``."""
    again = parse_recompute(plan.sharding.recompute)
    if again.what in ("", "stages"):
        return ["stages"] if again.what else []
    costs = [layer.costs[0] for layer in workload.layers]
    return [workload.layers[i].name for i in sorted(recomputed_layers(workload, costs, again))]


def _losses(plan: Plan, workload: Workload, of_model: ScriptModel) -> Losses:
    """Return what the script does otherwise than was predicted."""
    losses = Losses()
    if of_model.reordered:
        losses.add("fused weights are cut as they lie: ranks train the model with their rows in another order")
    if of_model.cut.sent and (less := _computed_anew(plan, workload)):
        losses.add(
            f"each stage computes positions and masks itself: {format_bytes(less)} less a message than predicted"
        )
    if plan.algorithm not in ("ring", "auto"):
        losses.add(f"algorithm {plan.algorithm}: torch's library chooses (NCCL_ALGO)")
    sharding = plan.sharding
    if sharding.zero and len(of_model.cut.sent) > 1 and not (sharding.keep_gathered and sharding.accumulate):
        losses.add(
            "where stages shard, torch's pipelines gather less often, and reduce behind the last micro-batch alone"
        )
    if sharding.recompute and plan.tp > 1:
        losses.add("a forward that runs again ends once backward has what it needs: fewer all-reduces than predicted")
    if _settles_bucket(plan) and plan.first_bucket_bytes != plan.bucket_bytes:
        sizes = format_bytes(plan.bucket_bytes), format_bytes(plan.first_bucket_bytes)
        losses.add(f"the first bucket of gradients closes at {sizes[0]} too, predicted {sizes[1]}")
    return losses


def _computed_anew(plan: Plan, workload: Workload) -> int:
    """Return the most bytes that are predicted to cross a cut beside the tensor that does."""
    size, split = microbatch_size(workload, plan), Split(tp=plan.tp)
    by_name = {tensor.name: tensor for tensor in workload.tensors}
    cuts = crossings(workload, size, split)
    found = 0
    for at in plan.boundaries or ():
        sizes = [tensor_bytes(by_name[name], size, workload.microbatch, split) for name in cuts[at - 1].tensors]
        found = max(found, sum(sizes) - max(sizes, default=0))
    return found


def _text(plan: Plan, workload: Workload, make: str, parts: tuple[Any, str, str], losses: Losses) -> str:
    settings, imports, body = parts
    shown = pprint.pformat(settings, width=116, sort_dicts=False, compact=True)
    head = [
        '"""' + "\n".join(textwrap.wrap(f"Train {workload.name} as planned: {plan.text}.", 116)),
        "",
        f"    torchrun --nproc-per-node {plan.ranks} THIS_FILE --steps 3 --lr 1e-3",
        "",
        "All ranks make the same model and the same batch from one seed, on the CPU, and each keeps its own part; each",
        f"step has that batch: put your data in `make`. Written by {made_now('').made_by}.",
        *(f"Otherwise than predicted: {line}." for line in losses.lines),
        '"""',
    ]
    lines = ["\n".join(head), "from __future__ import annotations", imports, f"PLAN = {shown}", make, body]
    return (
        "\n\n\n".join(["\n\n".join(lines[:4]), *lines[4:]]) + '\n\n\nif __name__ == "__main__":\n    main(PLAN, make)\n'
    )


def _make(model: str, sizes: Mapping[str, Any]) -> str:
    """Return the function that makes the model and a batch."""
    sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
    if ":" in model and not model.startswith("hf:"):
        module, _, factory = model.partition(":")
        words = "".join(f", {name}={value!r}" for name, value in sizes.items())
        made = [f"    from {module} import {factory}", "", f"    return {factory}(samples{words})"]
        made = ["    import sys", "", "    sys.path.insert(0, os.getcwd())", *made]
    else:
        made = [
            "    from mpsim.workload.source import resolve_model",
            "",
            f"    return resolve_model({json.dumps(model)}, {sizes!r}).build(samples)",
        ]
    return "\n".join(
        ["def make(samples):", '    """Return the model and a batch: (model, inputs, target, loss)."""', *made]
    )
