"""Which tensor-parallel style each module of a model gets, and whether it can have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from mpsim.errors import MpsimError, at, did_you_mean
from mpsim.workload.divide import check_divides
from mpsim.workload.example import Example
from mpsim.workload.partial_styles import holds_experts

__all__ = ["SUMMED", "parallel_styles"]

SUMMED = "replicated_with_grad_allreduce"
"""The style of a module that every rank has and runs on its own heads, such as a norm of each head."""


class _Kind(NamedTuple):
    takes: Callable[[nn.Module], bool]
    names: str


_LINEAR = _Kind(lambda module: isinstance(module, nn.Linear), "Linear")
_TABLE = _Kind(lambda module: isinstance(module, nn.Linear | nn.Embedding), "Linear and Embedding")
_ANY = _Kind(lambda module: True, "any module")
_KINDS: dict[str, _Kind] = {
    "colwise": _TABLE,
    "rowwise": _LINEAR,
    "vocabulary": _TABLE,
    "colwise_gather_output": _LINEAR,
    "rowwise_split_input": _LINEAR,
    "experts": _Kind(holds_experts, "a mixture's experts, a matrix of each in gate_up_proj and down_proj"),
    "mla_kv_a_proj": _LINEAR,
    SUMMED: _ANY,
    "replicate": _ANY,
}
_WHOLE = ("replicate", SUMMED, "mla_kv_a_proj")


def parallel_styles(example: Example, ranks: int) -> dict[str, str]:
    """Return path → style of each module that holds weights, having checked that each can be sharded so.

    Raises
    ------
    MpsimError
        Heads or a size that `ranks` does not divide, a module without a style or one that it cannot have, or a glob
        without a module.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    >>> parallel_styles(Example(model=model, inputs=(), tensor_parallel={"0": "colwise", "*": "replicate"}), 2)
    {'0': 'colwise', '2': 'replicate'}
    """
    weighty = {path: module for path, module in example.model.named_modules() if _has_style(path, module, example)}
    styles = {path: _style(path, module, example.tensor_parallel) for path, module in weighty.items()}
    for glob in example.tensor_parallel:
        if not any(fnmatchcase(path, glob) for path in weighty):
            raise MpsimError(f"tensor_parallel names {glob!r}, no module with weights{did_you_mean(glob, weighty)}")
    _check_sizes(example, weighty, styles, ranks)
    _check_tied(weighty, styles)
    return styles


def _has_style(path: str, module: nn.Module, example: Example) -> bool:
    """Whether a module holds weights, or parameters of one dimension whose gradients the ranks sum."""
    summed = _first(path, example.tensor_parallel) == SUMMED and any(True for _ in module.parameters(recurse=False))
    return bool(_weights(module)) or summed


def _weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of two dimensions or more that the module itself holds."""
    return {name: p for name, p in module.named_parameters(recurse=False, remove_duplicate=False) if p.dim() > 1}


def _first(path: str, globs: Mapping[str, str]) -> str | None:
    """Return the style of the first glob that matches `path`."""
    return next((style for glob, style in globs.items() if fnmatchcase(path, glob)), None)


def _style(path: str, module: nn.Module, globs: Mapping[str, str]) -> str:
    """Return the style of a module that it can have."""
    what = f"{path or 'the model'} ({type(module).__name__})"
    style = _first(path, globs)
    if style is None:
        raise MpsimError(f"{what} has no tensor-parallel form: {_remedy(path, module)}")
    if style not in _KINDS:
        raise MpsimError(f"{what}: unknown tensor-parallel style {style!r}{did_you_mean(style, _KINDS)}")
    kind = _KINDS[style]
    if not kind.takes(module):
        raise MpsimError(f"{what} has no tensor-parallel form: {style} shards {kind.names}; give 'replicate'")
    return style


def _remedy(path: str, module: nn.Module) -> str:
    """Say how to give `module` a style, or that it can only be replicated."""
    if isinstance(module, nn.Linear | nn.Embedding) or holds_experts(module):
        styles = [style for style, kind in _KINDS.items() if kind.takes(module) and style not in _WHOLE[1:]]
        return f"name it, as in tensor_parallel={{{path!r}: {' or '.join(map(repr, styles))}}}"
    return f"PyTorch shards Linear and Embedding; tensor_parallel={{{path!r}: 'replicate'}} computes it on every rank"


def _check_sizes(example: Example, weighty: Mapping[str, nn.Module], styles: Mapping[str, str], ranks: int) -> None:
    """Refuse heads and features that the ranks cannot share; a vocabulary is padded where they cannot."""
    features = {path: size for path, module in weighty.items() if (size := _shared_size(module, styles[path]))}
    check_divides(example.shared, ranks, together=features.values())
    together = [*example.shared.values(), *features.values()]
    for path, size in features.items():
        try:
            check_divides({"features": size}, ranks, together=together)
        except MpsimError as error:
            raise at(f"{path} ({type(weighty[path]).__name__})", error) from None


def _shared_size(module: nn.Module, style: str) -> int:
    """Return how many features the ranks share of a module; 0 if none."""
    if style in _WHOLE or style == "vocabulary":
        return 0
    if style == "experts":
        return int(module.down_proj.numel() // module.down_proj.shape[0] // _outputs(module))
    rows, columns = module.weight.shape
    return int(columns if style.startswith("rowwise") or isinstance(module, nn.Embedding) else rows)


def _outputs(module: nn.Module) -> int:
    """Return the features of what a mixture's experts return."""
    return int(module.down_proj.shape[-1 if getattr(module, "is_transposed", False) else -2])


def _check_tied(weighty: Mapping[str, nn.Module], styles: Mapping[str, str]) -> None:
    """Refuse to shard a weight that two modules share, unless they shard it alike."""
    alike: tuple[set[str], ...] = ({"replicate"}, {"vocabulary"}, {"vocabulary", "colwise_gather_output"})
    seen: dict[int, str] = {}
    for path, module in weighty.items():
        for weight in _weights(module).values():
            other = seen.setdefault(id(weight), path)
            if {styles[path], styles[other]} not in alike and other != path:
                raise MpsimError(f"{path} shares its weight with {other}: give both 'replicate' or both 'vocabulary'")
