"""What a script needs to know of a model: how its layers are shared, and what goes from stage to stage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from mpsim.emulate.cut_points import CutPoints, cut_points
from mpsim.emulate.script.shared import STYLES
from mpsim.errors import MpsimError, did_you_mean
from mpsim.workload.example import Example
from mpsim.workload.fake import fake_example
from mpsim.workload.found_plans import planned
from mpsim.workload.model_source import Source
from mpsim.workload.parallel_styles import parallel_styles

__all__ = ["ScriptModel", "script_model", "sent_on_a_rank"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptModel:
    """What is written into a script of a model.

    Attributes
    ----------
    styles : dict of str to str
        Of the modules that ranks share, by path, ``*`` for any number in it.
    cut : CutPoints
        What goes from stage to stage; empty where there is one.
    reordered : bool
        Whether ranks that share layers have the weights of another order than the whole model, as fused ones.
    whole : bool
        Whether the one layer of the workload is the model itself.
    """

    styles: dict[str, str] = field(default_factory=dict)
    cut: CutPoints = CutPoints()
    reordered: bool = False
    whole: bool = False


def script_model(source: Source, stages: Sequence[Sequence[str]], *, microbatch: int, tp: int) -> ScriptModel:
    """Build a model of fake tensors and return what a script says of it.

    Parameters
    ----------
    source : Source
        The model.
    stages : sequence of sequence of str
        Names of the workload's layers in each stage.
    microbatch : int
        Samples in one.
    tp : int
        Ranks that share each layer.

    Raises
    ------
    MpsimError
        The model is not the workload's, cannot be cut there, or is shared in a way that torch has no style for.

    Examples
    --------
    >>> from mpsim.workload.source import resolve_model
    >>> script_model(resolve_model("mnist-mlp"), [["fc1", "fc2", "fc3", "fc4"]], microbatch=1, tp=2).styles["fc1"]
    'colwise'
    """
    example = fake_example(source, microbatch)
    example.model.train()
    _check_batch(example, microbatch)
    _check_layers(example, stages)
    styles = _styles(example, tp) if tp > 1 else {}
    cut = CutPoints()
    if len(stages) > 1:
        if not isinstance(example.target, torch.Tensor):
            raise MpsimError(
                f"{type(example.model).__name__} has a target that is no tensor, torch's pipelines take one: give"
                " target= and loss=(output, target)"
            )
        cut = cut_points(example, stages)
    whole = stages[0][0] not in dict(example.model.named_modules())
    return ScriptModel(styles=styles, cut=cut, reordered=bool(styles and example.shard is not None), whole=whole)


def _check_batch(example: Example, microbatch: int) -> None:
    """Refuse what cannot be cut into micro-batches along its first dimension."""
    for value in pytree.tree_leaves((example.inputs, dict(example.keywords), example.target)):
        if isinstance(value, torch.Tensor) and (not value.dim() or value.shape[0] != microbatch):
            raise MpsimError(
                f"the batch holds a tensor of shape {tuple(value.shape)} for {microbatch} samples: a script cuts along"
                " the first dimension, give each sample its own row"
            )


def _check_layers(example: Example, stages: Sequence[Sequence[str]]) -> None:
    """Refuse a workload whose layers are not modules of the model, or not all that hold parameters."""
    layers, modules = [path for stage in stages for path in stage], dict(example.model.named_modules())
    for path in layers:
        if path not in modules and layers != [type(example.model).__name__]:
            raise MpsimError(
                f"{type(example.model).__name__} has no module {path!r}{did_you_mean(path, modules)}: the workload is"
                " of another model, or of another size: name the model (--model), or trace it again"
            )
    if len(stages) > 1:
        left = [path for path, _ in example.model.named_parameters() if not _inside(path, layers)]
        if left:
            raise MpsimError(f"parameter {left[0]!r} is in no layer of the workload: a stage cannot have it")


def _inside(path: str, layers: Sequence[str]) -> bool:
    return any(path.startswith(f"{layer}.") for layer in layers)


def _styles(example: Example, tp: int) -> dict[str, str]:
    """Return the styles that the model was traced with, those of whole weights left out."""
    found = parallel_styles(planned(example)[0], tp)
    styles = {path: style for path, style in found.items() if style != "replicate"}
    for path, style in styles.items():
        if style not in STYLES:
            raise MpsimError(
                f"{path} is shared as {style!r}, for which torch has no style of its own: export a plan with tp=1"
            )
        if style == "vocabulary" and example.model.get_submodule(path).weight.shape[0] % tp:
            rows = example.model.get_submodule(path).weight.shape[0]
            raise MpsimError(
                f"{path} has {rows} tokens, which tp={tp} does not divide; the prediction pads them: give the model"
                f" {-(-rows // tp) * tp} tokens and trace it again"
            )
    return _starred(styles, example)


def _starred(styles: dict[str, str], example: Example) -> dict[str, str]:
    """Return the styles with ``*`` for numbers where all modules of such a path have one."""
    alike: dict[str, set[str]] = {}
    for path, _ in example.model.named_modules():
        alike.setdefault(_pattern(path), set()).add(styles.get(path, ""))
    return {_pattern(path) if len(alike[_pattern(path)]) == 1 else path: style for path, style in styles.items()}


def _pattern(path: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)


def sent_on_a_rank(sent: tuple[str, tuple[int, ...]], shapes: Sequence[tuple[Any, Any]]) -> tuple[str, tuple[int, ...]]:
    """Return what is sent as one of the ranks that share layers has it.

    Parameters
    ----------
    sent : (str, tuple of int)
        Type and shape of the whole.
    shapes : sequence of (tuple of int, tuple of int)
        Of the tensors that cross the cut: whole, and on one rank.

    Examples
    --------
    >>> sent_on_a_rank(("float32", (2, 8)), [((2, 8), (2, 4))])
    ('float32', (2, 4))
    """
    return sent[0], next((tuple(own) for whole, own in shapes if tuple(whole) == sent[1]), sent[1])
