"""Units: what replicas that shard parameters gather and reduce at once, as PyTorch's ``fully_shard`` groups it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from mpsim.errors import MpsimError, did_you_mean
from mpsim.plan.sharding import Sharding
from mpsim.workload.model import DTYPE_BYTES, Gradient, Parameter, Precision

__all__ = ["Unit", "check_units", "communicated", "is_numbered", "padded", "path_of", "units_of"]

_NAMED = ("blocks", "layers", "model")
_NARROW = ("bfloat16", "float16")


class Unit(NamedTuple):
    """Parameters of a stage that are gathered at once, and whose gradients are reduced at once.

    Attributes
    ----------
    path : str
        Of the module; ``""`` for the root unit, which has what is in no other.
    layers : tuple of int
        Layers of the workload that hold them, in ascending order.
    gathered_bytes, reduced_bytes : int
        What an all-gather makes and what a reduce-scatter takes, with the padding that makes shards even, in the types
        of communication.
    kept_bytes : int
        Of all replicas' shares of its gradients, which have the parameters' type.
    names : frozenset of str
        The parameters whose gradients it reduces.
    axis : str
        Along which its shards lie: ``shard``, or ``edp`` of experts.
    parts : int
        How many they are.
    """

    path: str
    layers: tuple[int, ...]
    gathered_bytes: int
    reduced_bytes: int
    kept_bytes: int
    names: frozenset[str]
    axis: str
    parts: int

    @property
    def root(self) -> bool:
        """Whether it is what is in no other unit."""
        return not self.path

    @property
    def share_bytes(self) -> int:
        """What is left of its gradients on one rank, in their type of communication."""
        return self.reduced_bytes // self.parts


def padded(shape: Sequence[int], parts: int) -> int:
    """Return the elements of a tensor whose first dimension is padded to a multiple of so many parts.

    Examples
    --------
    >>> padded((5, 7), 4), padded((8,), 4), padded((), 4)
    (56, 8, 4)
    """
    first, *rest = shape or (1,)
    return -(-first // parts) * parts * math.prod(rest)


def path_of(layer: str, units: str, numbered: bool = True) -> str:
    """Return the path of the unit that a layer belongs to, as `Sharding.units` says; ``""`` for the root unit.

    Parameters
    ----------
    layer : str
        Its path.
    units : str
        ``blocks``, ``layers``, ``model``, or globs of paths, of which the longest path that one matches counts.
    numbered : bool
        Whether any layer of the model is a member of a list; where none is, each is a block.

    Examples
    --------
    >>> path_of("model.layers.3.mlp", "blocks"), path_of("model.norm", "blocks"), path_of("fc1", "blocks", False)
    ('model.layers.3', '', 'fc1')
    >>> path_of("encoder.3.mlp.up", "encoder.*,*.mlp")
    'encoder.3.mlp.up'
    """
    if units == "layers" or (units == "blocks" and not numbered):
        return layer
    if units == "model":
        return ""
    paths = _paths(layer)
    if units == "blocks":
        return next((path for path in paths if path.rpartition(".")[2].isdecimal()), "")
    globs = units.split(",")
    return next((path for path in reversed(paths) if any(fnmatchcase(path, glob) for glob in globs)), "")


def is_numbered(layers: Iterable[str]) -> bool:
    """Return whether any of a model's layers is a member of a list, as `path_of` asks.

    Examples
    --------
    >>> is_numbered(["embed", "layers.0.mlp"]), is_numbered(["fc1", "fc2"])
    (True, False)
    """
    return any(path_of(layer, "blocks") for layer in layers)


def _paths(layer: str) -> list[str]:
    """Return the paths of the modules that a layer is in, its own last."""
    parts = layer.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def check_units(layers: Iterable[str], units: str) -> None:
    """Refuse globs of units of which one is no module's path: what it means would be in the root unit.

    Raises
    ------
    MpsimError
        Names the glob.

    Examples
    --------
    >>> check_units(["embed", "blocks.0"], "blocks.*")
    >>> check_units(["embed", "blocks.0"], "block.*")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: units names 'block.*', no module's path; did you mean 'blocks.0'?
    """
    if units in _NAMED:
        return
    paths = dict.fromkeys(path for layer in layers for path in _paths(layer))
    for glob in units.split(","):
        if not any(fnmatchcase(path, glob) for path in paths):
            raise MpsimError(f"units names {glob!r}, no module's path{did_you_mean(glob, [*paths, *_NAMED])}")


def communicated(dtype: str, precision: Precision, sharding: Sharding) -> str:
    """Return the type in which parameters of a type are gathered.

    Where mixed precision multiplies in 16 bits what is kept in more, that is what is sent.

    Examples
    --------
    >>> mixed = Precision(name="bf16-mixed", compute="bfloat16")
    >>> communicated("float32", mixed, Sharding(zero=3)), communicated("float32", Precision(), Sharding(zero=3))
    ('bfloat16', 'float32')
    """
    if sharding.gather_dtype:
        return sharding.gather_dtype
    narrower = precision.compute in _NARROW and DTYPE_BYTES[precision.compute] < DTYPE_BYTES[dtype]
    return precision.compute if narrower else dtype


def units_of(
    layers: Mapping[int, tuple[str, Sequence[Parameter]]],
    gradients: Iterable[tuple[int, Gradient]],
    precision: Precision,
    sharding: Sharding,
    *,
    axes: Sequence[tuple[str, int]],
    numbered: bool,
) -> tuple[Unit, ...]:
    """Return the units of a stage, the root unit first, then in the order of their first layers.

    What a unit has of experts is a unit of its own, behind it.

    Parameters
    ----------
    layers : mapping of int to (str, sequence of Parameter)
        The name and the parameters of each.
    gradients : iterable of (int, Gradient)
        With the layer that completes each.
    precision : Precision
        Of the workload.
    sharding : Sharding
        Of the plan.
    axes : sequence of (str, int)
        Along which a parameter is sharded and in how many parts, and the same of an expert's.
    numbered : bool
        As `path_of` takes it.

    Examples
    --------
    >>> layers = {0: ("embed", [Parameter(name="e", shape=(5, 2))]), 1: ("layers.0", [Parameter(name="w", shape=(4,))])}
    >>> axes = ("shard", 4), ("edp", 1)
    >>> for unit in units_of(layers, [], Precision(), Sharding(zero=3), axes=axes, numbered=True):
    ...     print(unit.path or "root", unit.gathered_bytes)
    root 64
    layers.0 16
    """
    made: dict[int, list[Gradient]] = {}
    for layer, gradient in gradients:
        made.setdefault(layer, []).append(gradient)
    experts = {gradient.parameter for own in made.values() for gradient in own if gradient.expert}
    types = precision, sharding
    found = []
    paths = {i: path_of(name, sharding.units, numbered) for i, (name, _) in layers.items()}
    for path in dict.fromkeys(["", *paths.values()]):
        of = [i for i in layers if paths[i] == path]
        for expert, (axis, parts) in enumerate(axes):
            held = {i: [one for one in layers[i][1] if (one.name in experts) is bool(expert)] for i in of}
            own = {i: [one for one in made.get(i, ()) if one.expert is bool(expert)] for i in of}
            if parts > 1 and any([*held.values(), *own.values()]):
                name = ".".join([path, "experts"] if path else ["experts"]) if expert else path
                found.append(_unit(name, held, own, types, axis, parts))
    return tuple(found)


def _unit(
    path: str,
    held: Mapping[int, Sequence[Parameter]],
    made: Mapping[int, Sequence[Gradient]],
    types: tuple[Precision, Sharding],
    axis: str,
    parts: int,
) -> Unit:
    shapes = {one.name: one for own in held.values() for one in own}
    gradients = {one.parameter: one for own in made.values() for one in own}.values()
    gathered = sum(_bytes(one, communicated(one.dtype, *types), parts) for one in shapes.values())
    reduced, kept = (
        sum(_reduced(one, shapes.get(one.parameter), sharding, parts) for one in gradients)
        for sharding in (types[1], Sharding())
    )
    layers = tuple(i for i in held if held[i] or made[i])
    return Unit(path, layers, gathered, reduced, kept, frozenset(one.parameter for one in gradients), axis, parts)


def _bytes(one: Parameter, dtype: str, parts: int) -> int:
    return padded(one.shape, parts) * DTYPE_BYTES[dtype]


def _reduced(one: Gradient, parameter: Parameter | None, sharding: Sharding, parts: int) -> int:
    """Return what a reduce-scatter takes of a gradient."""
    if parameter is None:
        return -(-one.bytes // parts) * parts
    dtype = sharding.reduce_dtype or sharding.gather_dtype
    if dtype:
        return _bytes(parameter, dtype, parts)
    numbers = math.prod(parameter.shape)
    return padded(parameter.shape, parts) * one.bytes // numbers if numbers else 0
