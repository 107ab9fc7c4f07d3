"""A tensor-parallel plan where none was given: transformers' own, or pairs of Linear layers."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from mpsim.errors import MpsimError
from mpsim.workload.example import Example
from mpsim.workload.linear_stacks import linear_pairs
from mpsim.workload.parallel_styles import SUMMED

__all__ = ["planned"]

# transformers' names of styles; those that are called as here are not among them.
_NAMES = {
    "colwise_rep": "colwise_gather_output",
    "embedding_rowwise": "vocabulary",
    "moe_tp_experts": "experts",
    "packed_colwise": "colwise",
    "rowwise_rep": "rowwise_split_input",
}
_AS_HERE = {"colwise", "rowwise", "colwise_gather_output", "rowwise_split_input", "mla_kv_a_proj", "replicate", SUMMED}
_KEYS = ("k_proj", "qkv_proj", "query_key_value")
_PLAIN = (nn.Linear, nn.Embedding, nn.EmbeddingBag)


def planned(example: Example) -> tuple[Example, tuple[str, ...]]:
    """Return the example with a tensor-parallel plan, and a note of where that is from if it was found here.

    The plan of a model of transformers is its own (`model.tp_plan`), and holds for such a model inside of another too.
    Of a model whose weights are all in Linear layers and embeddings, Linear layers that feed each other become colwise
    and rowwise. Whatever else has weights is every rank's. Where there is no such plan the example stays as it is.

    Raises
    ------
    MpsimError
        The plan of transformers has a style that is not known here.

    Examples
    --------
    >>> import torch
    >>> mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> example, notes = planned(Example(model=mlp, inputs=(torch.ones(1, 4),)))
    >>> notes
    ('tensor-parallel plan found: 1 Linear colwise, 1 rowwise (0, 2), all else on every rank',)
    """
    if example.tensor_parallel:
        return example, ()
    for prefix, model in example.model.named_modules():
        plan = getattr(model, "_tp_plan", None)
        if isinstance(plan, Mapping) and plan and hasattr(model, "config"):
            styles = _of_transformers(model, plan, f"{prefix}." if prefix else "")
            note = f"tensor-parallel plan: that of transformers for {type(model).__name__} ({_counted(styles)})"
            found = {**styles, "*": "replicate"}
            return replace(example, tensor_parallel=found, shared=_heads(model, styles)), (note,)
    return _paired(example)


def _paired(example: Example) -> tuple[Example, tuple[str, ...]]:
    """Return the example with its pairs of Linear layers as plan, if it has nothing else with weights."""
    held = [module for module in example.model.modules() if any(p.dim() > 1 for p in module.parameters(recurse=False))]
    if not held or not all(isinstance(module, _PLAIN) for module in held) or example.shard is not None:
        return example, ()
    styles: dict[str, str] = {}
    with contextlib.suppress(Exception):  # whatever a user's model does that has no fake form
        styles = linear_pairs(example)
    if not styles:
        return example, ()
    paths = ", ".join([*list(styles)[:6], *(["…"] if len(styles) > 6 else [])])
    count = Counter(styles.values())
    note = (
        f"tensor-parallel plan found: {count['colwise']} Linear colwise, {count['rowwise']} rowwise ({paths}), all"
        " else on every rank"
    )
    rest = {"*": "replicate"} if len(styles) < len(held) else {}
    return replace(example, tensor_parallel={**styles, **rest}), (note,)


def _of_transformers(model: Any, plan: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Return path → style of each module that a plan of transformers names; its ``*`` are the numbers of layers.

    What it says of parameters by name, those of experts, is in the style of the module that holds them.
    """
    styles = {}
    for path, _ in model.named_modules():
        style = plan.get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path))
        if style is None:
            continue
        known = _NAMES.get(style, style if style in _AS_HERE else None)
        if known is None:
            raise MpsimError(
                f"{path}: the tensor-parallel plan of transformers for {type(model).__name__} has the style {style!r},"
                " which is not known here: give tensor_parallel={…} yourself"
            )
        styles[prefix + path] = known
    return styles


def _heads(model: Any, styles: Mapping[str, str]) -> dict[str, int]:
    """Return the heads that ranks share whole, if a plan shares any."""
    if not any(path.endswith(_KEYS) and style == "colwise" for path, style in styles.items()):
        return {}
    config = model.config.get_text_config()
    names = {"attention heads": "num_attention_heads", "key-value heads": "num_key_value_heads"}
    return {what: getattr(config, name) for what, name in names.items() if isinstance(getattr(config, name, None), int)}


def _counted(styles: Mapping[str, str]) -> str:
    return ", ".join(f"{count} {style}" for style, count in Counter(styles.values()).items())
