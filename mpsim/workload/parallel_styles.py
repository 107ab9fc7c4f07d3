"""Which tensor-parallel style each module of a model gets, and whether it can have it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn

from mpsim.errors import MpsimError, did_you_mean
from mpsim.workload.example import Example

__all__ = ["parallel_styles"]

_SHARDABLE = (nn.Linear, nn.Embedding)
_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "colwise": _SHARDABLE,
    "rowwise": (nn.Linear,),
    "vocabulary": _SHARDABLE,
    "replicate": (nn.Module,),
}


def parallel_styles(example: Example, ranks: int) -> dict[str, str]:
    """Return path → style of each module that holds weights, having checked that each can be sharded so.

    Raises
    ------
    MpsimError
        A module without a style or one that it cannot have, a glob without a module, or a size that `ranks`
        does not divide.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    >>> parallel_styles(Example(model=model, inputs=(), tensor_parallel={"0": "colwise", "*": "replicate"}), 2)
    {'0': 'colwise', '2': 'replicate'}
    """
    weighty = {path: module for path, module in example.model.named_modules() if _weights(module)}
    styles = {path: _style(path, module, example.tensor_parallel) for path, module in weighty.items()}
    for glob in example.tensor_parallel:
        if not any(fnmatchcase(path, glob) for path in weighty):
            raise MpsimError(f"tensor_parallel names {glob!r}, no module with weights{did_you_mean(glob, weighty)}")
    for path, module in weighty.items():
        _check_divides(path, module, styles[path], ranks)
    _check_tied(weighty, styles)
    return styles


def _weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of two dimensions or more that the module itself holds."""
    return {name: p for name, p in module.named_parameters(recurse=False, remove_duplicate=False) if p.dim() > 1}


def _style(path: str, module: nn.Module, globs: Mapping[str, str]) -> str:
    """Return the style of the first glob that matches `path`."""
    what = f"{path or 'the model'} ({type(module).__name__})"
    style = next((style for glob, style in globs.items() if fnmatchcase(path, glob)), None)
    if style is None:
        raise MpsimError(f"{what} has no tensor-parallel form: {_remedy(path, module)}")
    if style not in _KINDS:
        raise MpsimError(f"{what}: unknown tensor-parallel style {style!r}{did_you_mean(style, _KINDS)}")
    if not isinstance(module, _KINDS[style]):
        names = " and ".join(kind.__name__ for kind in _KINDS[style])
        raise MpsimError(f"{what} has no tensor-parallel form: {style} shards {names}; give 'replicate'")
    return style


def _remedy(path: str, module: nn.Module) -> str:
    """Say how to give `module` a style, or that it can only be replicated."""
    if isinstance(module, _SHARDABLE):
        styles = " or ".join(repr(style) for style, kinds in _KINDS.items() if isinstance(module, kinds))
        return f"name it, as in tensor_parallel={{{path!r}: {styles}}}"
    return f"PyTorch shards Linear and Embedding; tensor_parallel={{{path!r}: 'replicate'}} computes it on every rank"


def _check_divides(path: str, module: nn.Module, style: str, ranks: int) -> None:
    if style == "replicate":
        return
    rows, columns = module.weight.shape
    by_column = style == "rowwise" or (style == "colwise" and isinstance(module, nn.Embedding))
    size, what = columns if by_column else rows, "tokens" if style == "vocabulary" else "features"
    if size % ranks:
        raise MpsimError(
            f"{path} ({type(module).__name__}): {size} {what} do not divide by {ranks} tensor-parallel ranks"
        )


def _check_tied(weighty: Mapping[str, nn.Module], styles: Mapping[str, str]) -> None:
    """Refuse to shard a weight that two modules share, unless they shard it alike."""
    seen: dict[int, str] = {}
    for path, module in weighty.items():
        for weight in _weights(module).values():
            other = seen.setdefault(id(weight), path)
            if {styles[path], styles[other]} not in ({"replicate"}, {"vocabulary"}) and other != path:
                raise MpsimError(f"{path} shares its weight with {other}: give both 'replicate' or both 'vocabulary'")
