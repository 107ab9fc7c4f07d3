"""What each rank of a plan needs to make its part of the model."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Sequence
from typing import Any

from mpsim.errors import MpsimError
from mpsim.lowering.buckets import Bucket
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import Stage, microbatch_size

__all__ = ["recipes", "split_name"]


def split_name(text: str) -> tuple[str, dict[str, Any]]:
    """Return the model and the sizes that a workload is named after.

    Examples
    --------
    >>> split_name("mnist-mlp[widths=784,256,10]")
    ('mnist-mlp', {'widths': (784, 256, 10)})
    """
    from mpsim.workload.zoo import parse_overrides

    match = re.fullmatch(r"(.*?)(?:\[(.*)\])?", text)
    assert match is not None
    return match[1], dict(parse_overrides(re.split(r",(?=[A-Za-z_]\w*=)", match[2]) if match[2] else []))


def recipes(lowering: Lowering, model: Any, depth: int | str) -> tuple[bytes, ...]:
    """Return for each rank, in order, a pickled `mpsim.emulate.real.Recipe`.

    Parameters
    ----------
    lowering : Lowering
        Of the plan.
    model : str, Example or None
        As in `mpsim.emulate.run.emulate`.
    depth : int or "auto"
        How many modules deep the workload's layers lie.

    Raises
    ------
    MpsimError
        There is no such model, another process could not load it, or the plan has stages that no run computes.
    """
    from mpsim.emulate.real import Own, Recipe
    from mpsim.workload.source import resolve_model

    _check(lowering)
    workload, plan = lowering.workload, lowering.plan
    overrides: dict[str, Any] = {}
    if model is None:
        model = _told_by_file(workload.name)
    if isinstance(model, str):
        model, overrides = split_name(model)
        resolve_model(model, overrides)
    else:
        model = _pickled(model)
    found = []
    stages = [
        Own(i, stage.layers.start, stage.layers.stop, _members(stage, stage.buckets))
        for i, stage in enumerate(lowering.stages)
    ]
    for _ in range(plan.dp):
        for p in range(plan.pp):
            own = tuple(stages[s] for s in lowering.shape.held_by(p))
            for t in range(plan.tp):
                recipe = Recipe(
                    model=model,
                    overrides=overrides,
                    folder=os.getcwd(),
                    microbatch=microbatch_size(workload, plan),
                    microbatches=plan.microbatches,
                    dp=plan.dp,
                    tp=plan.tp,
                    layers=tuple(layer.name for layer in workload.layers),
                    depth=depth,
                    optimizer=workload.optimizer or "sgd",
                    stages=own,
                    tp_rank=t,
                )
                found.append(pickle.dumps(recipe))
    return tuple(found)


def _told_by_file(name: str) -> str:
    """Return the model of the zoo that a workload is named after; other names would run code that a file chooses."""
    from mpsim.workload.zoo import ZOO

    if split_name(name)[0] not in ZOO:
        raise MpsimError(
            f"the workload is named {name!r}, which is no model of the zoo, and what else a file names is not run: give"
            " --model, as in --model package.module:factory"
        )
    return name


def _check(lowering: Lowering) -> None:
    """Refuse stages that have copies or several versions of their parameters."""
    name = lowering.plan.schedule_name
    if lowering.shape.directions > 1:
        raise MpsimError(
            f"schedule {name!r} has {lowering.shape.directions} copies of each stage, real computation one: replay the"
            " computation, or use a schedule of one direction"
        )
    if lowering.asynchronous:
        raise MpsimError(
            f"schedule {name!r} updates while micro-batches are under way, real computation when all are back: replay"
            " the computation, or use a schedule without U"
        )


def _pickled(example: Any) -> bytes:
    try:
        data = pickle.dumps(example)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise MpsimError(f"the model cannot be sent to another process ({error}): define it in a module") from None
    if b"__main__" in data:
        raise MpsimError(
            "the model is defined in the program itself, which other processes do not load: move it to a module"
        )
    return data


def _members(stage: Stage, buckets: Sequence[Bucket]) -> tuple[tuple[str, ...], ...]:
    """Return the parameters in each bucket: they fill them in the order in which backward completes them."""
    gradients = iter(stage.gradients)
    found = []
    for bucket in buckets:
        names, held = [], 0
        while held < bucket.bytes:
            _, gradient = next(gradients)
            names.append(gradient.parameter)
            held += gradient.bytes
        found.append(tuple(names))
    return tuple(found)
