"""Blocks of a model that are alike: a few are watched, and the last but one of them stands for all before the last.

A stack is a list of modules; its blocks, or groups of as many as make a period (sliding and full attention in turn),
are alike where they are of one class with the same numbers, shapes and parts, and share nothing. What was watched is
held against that: four are, the second and the third must have done the same, and nothing but the next may read what
they make. Of a model that was held so, three do in another split.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from mpsim.workload.account import LayerAccount, Value
from mpsim.workload.point import Point, unread_note

__all__ = ["Fold", "NotAlike", "folds_of", "shortened", "unfolded"]

_WATCHED = 4  # units of a run: the first, two of those between to be held against each other, the last
_LONGEST_PERIOD = 8
_NUMBER = re.compile(r"_?(layer|block)_?(idx|id|index|number|num)")  # how a block calls its own place
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size, torch.device)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class NotAlike(Exception):  # no error: whoever catches it watches the whole model
    """Blocks that looked alike did not do the same."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A run of alike units in a stack of blocks.

    Attributes
    ----------
    path : str
        Of the stack.
    units : tuple of tuple of str
        The names of the blocks of each unit, in order.
    few : int
        How many units are watched.

    Examples
    --------
    >>> Fold("layers", (("0",), ("1",), ("2",), ("3",), ("4",))).left_out
    ('3',)
    """

    path: str
    units: tuple[tuple[str, ...], ...]
    few: int = _WATCHED

    @property
    def left_out(self) -> tuple[str, ...]:
        """The blocks that are not watched."""
        return tuple(name for unit in self.absent for name in unit)

    @property
    def absent(self) -> tuple[tuple[str, ...], ...]:
        """The units that are not."""
        return self.units[self.few - 1 : -1]

    @property
    def watched(self) -> tuple[tuple[str, ...], ...]:
        """The units that are: the first ones and the last."""
        return (*self.units[: self.few - 1], self.units[-1])

    @property
    def held(self) -> Fold:
        """The fold where its blocks have been held against each other: one less is watched."""
        return replace(self, few=_WATCHED - 1)

    def prefixes(self, unit: Sequence[str]) -> tuple[str, ...]:
        """Return how the paths in a unit begin, a block each."""
        return tuple(f"{self.path}.{name}." if self.path else f"{name}." for name in unit)


def folds_of(model: nn.Module) -> tuple[Fold, ...]:
    """Return the runs of alike blocks of a model, of its outermost stacks.

    Examples
    --------
    >>> blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(6))
    >>> [fold.left_out for fold in folds_of(nn.ModuleDict({"blocks": blocks}))]
    [('3', '4')]
    """
    found: list[Fold] = []
    uses = _uses(model)
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{fold.path}.") or not fold.path for fold in found)
        if type(module) in (nn.ModuleList, nn.Sequential) and not inside:
            fold = _fold_of(path, module, uses, _lists_of(model, len(module)))
            if fold is not None:
                found.append(fold)
    return tuple(found)


def _uses(model: nn.Module) -> Counter[int]:
    """Return how often each parameter, buffer and module stands in a model."""
    uses: Counter[int] = Counter()
    for _, module in model.named_modules(remove_duplicate=False):
        uses.update(map(id, (module, *module._parameters.values(), *module._buffers.values())))
    return uses


def _lists_of(model: nn.Module, length: int) -> list[Any]:
    """Return the lists of so many items that configurations in a model hold: they may say of each block what it is."""
    found: dict[int, Any] = {}
    for module in model.modules():
        waiting = [getattr(module, "config", None)]
        while waiting:
            config = waiting.pop()
            for value in vars(config).values() if hasattr(config, "to_dict") else ():
                if isinstance(value, list) and len(value) == length:
                    found[id(value)] = value
                elif hasattr(value, "to_dict"):
                    waiting.append(value)
    return list(found.values())


def _fold_of(path: str, stack: Any, uses: Counter[int], lists: Sequence[Any]) -> Fold | None:
    """Return the longest run of alike units of a stack, of the shortest period; None where leaving out saves none."""
    names = list(stack._modules)
    said = [
        (_signature(block, uses), *(repr(one[i]) for one in lists)) for i, block in enumerate(stack._modules.values())
    ]
    best: Fold | None = None
    for period in range(1, min(_LONGEST_PERIOD, len(said) // (_WATCHED + 1)) + 1):
        start, units = _longest_run(said, period)
        blocks = units * period
        if units > _WATCHED and (best is None or blocks > sum(map(len, best.units)) + period):
            parts = [names[start + i * period : start + (i + 1) * period] for i in range(units)]
            best = Fold(path, tuple(map(tuple, parts)))
    return best


def _longest_run(said: Sequence[Any], period: int) -> tuple[int, int]:
    """Return where the longest run begins in which each is as the one a period before, and its whole periods."""
    start = best_start = best = 0
    for i in range(period, len(said) + 1):
        if i == len(said) or said[i] != said[i - period] or None in (said[i][0], said[i - period][0]):
            if (i - start) // period > best:
                best_start, best = start, (i - start) // period
            start = i - period + 1
    return best_start, best


def _signature(module: nn.Module, uses: Counter[int]) -> Hashable:
    """Return what a block is and holds; None of one of which a part stands elsewhere in the model too."""
    parts: list[Hashable] = []
    for path, inner in module.named_modules(remove_duplicate=False):
        held = [one for one in (*inner._parameters.values(), *inner._buffers.values()) if one is not None]
        if any(uses[id(one)] > 1 for one in (inner, *held)):
            return None
        parts.append((path, type(inner), inner.training, _tensors(inner), _attributes(inner)))
    return tuple(parts)


def _tensors(module: nn.Module) -> Hashable:
    named = [(*item, True) for item in module._parameters.items()] + [(*i, False) for i in module._buffers.items()]
    return tuple(
        (name, own, None if one is None else (tuple(one.shape), tuple(one.stride()), one.dtype, one.requires_grad))
        for name, one, own in named
    )


def _attributes(module: nn.Module) -> Hashable:
    """Return what a module holds that not every one does, its own number aside."""
    return tuple(
        (name, _known(value))
        for name, value in vars(module).items()
        if name not in _OF_EVERY_MODULE and not (_NUMBER.fullmatch(name) and isinstance(value, int))
    )


def _known(value: Any) -> Hashable:
    """Return a value by what it says; of an object that does not say, which one it is."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_known, value))
    if isinstance(value, dict):
        return type(value), tuple((_known(name), _known(item)) for name, item in value.items())
    return id(value)


@contextlib.contextmanager
def shortened(model: nn.Module, folds: Sequence[Fold]) -> Iterator[None]:
    """Leave out of a model the blocks that are not watched, and what configurations say of them.

    Examples
    --------
    >>> model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(6)))
    >>> with shortened(model, folds_of(model)):
    ...     len(model), list(model._modules)
    (4, ['0', '1', '2', '5'])
    """
    kept: list[tuple[Any, Any]] = []
    for fold in folds:
        stack: Any = model.get_submodule(fold.path)
        keep = [i for i, name in enumerate(stack._modules) if name not in set(fold.left_out)]
        for items in _lists_of(model, len(stack)):
            kept.append((items, list(items)))
            items[:] = [items[i] for i in keep]
        kept.append((stack, stack._modules))
        stack._modules = {name: part for name, part in stack._modules.items() if name not in set(fold.left_out)}
    try:
        yield
    finally:
        for holder, before in reversed(kept):
            if isinstance(holder, list):
                holder[:] = before
            else:
                holder._modules = before


def unfolded(point: Point, fold: Fold) -> tuple[Point, list[int]]:
    """Return a point of the whole model, and for each of its layers the one watched that stands for it.

    Parameters
    ----------
    point : Point
        Of a model that was shortened by the fold.

    Raises
    ------
    NotAlike
        The second and the third unit differ, or others read what they make.
    """
    values = [one for one in point.values if one.readers or one.output or one.producer < 0]
    point = replace(point, values=values)  # others go nowhere
    units = [_layers_in(point, fold, unit) for unit in fold.watched]
    _check_order(units)
    if fold.few == _WATCHED:
        _check_layers(point, units[1], units[2], _Renaming(fold, fold.watched[1], fold.watched[2]))
        _check_values(point, units)
    model, more = units[-2], len(fold.absent)
    after = model[-1] + 1
    source = [*range(after), *(model * more), *range(after, len(point.names))]
    names = [_Renaming(fold, fold.watched[-2], unit) for unit in fold.absent]
    spread = _Spread(source=source, after=after, more=more, units=units)
    made = _layers(point, spread, names)
    made.values = list(_values(point.values, spread))
    if (note := unread_note(point)) is not None:
        made.notes = [unread_note(made) or one if one == note else one for one in point.notes]
    return made, source


def _layers_in(point: Point, fold: Fold, unit: Sequence[str]) -> list[int]:
    begins = fold.prefixes(unit)
    return [i for i, path in enumerate(point.paths) if f"{path}.".startswith(begins)]


def _check_order(units: Sequence[Sequence[int]]) -> None:
    """Refuse units that do not run one behind the other, each once."""
    layers = [layer for unit in units for layer in unit]
    if not layers or layers != list(range(layers[0], layers[0] + len(layers))) or len(set(map(len, units))) > 1:
        raise NotAlike("blocks do not run one behind the other")


class _Renaming:
    """Turns the names in one unit into those in another."""

    def __init__(self, fold: Fold, old: Sequence[str], new: Sequence[str]) -> None:
        self.pairs = dict(zip(fold.prefixes(old), fold.prefixes(new), strict=True))

    def __call__(self, name: str) -> str:
        old = self.begins(name)
        return name if old is None else (self.pairs[old] + f"{name}."[len(old) :])[:-1]

    def begins(self, name: str) -> str | None:
        """Return how a name in the old unit begins, None of one that is not in it."""
        return next((old for old in self.pairs if f"{name}.".startswith(old)), None)


def _check_layers(point: Point, second: Sequence[int], third: Sequence[int], renamed: _Renaming) -> None:
    for a, b in zip(second, third, strict=True):
        if _said_of(point, a, renamed) != _said_of(point, b, lambda name: name):
            raise NotAlike(f"{point.names[a]} and {point.names[b]} differ")
    own, theirs = {*second, *third}, (*renamed.pairs, *renamed.pairs.values())
    for i, account in enumerate(point.accounts):
        named = (*account.parameters, *account.buffers, *account.gradients, *point.held[i])
        if i not in own and any(f"{name}.".startswith(theirs) for name in named):
            raise NotAlike(f"{point.names[i]} uses what is another's")


def _said_of(point: Point, layer: int, renamed: Any) -> tuple[Any, ...]:
    """Return all that a point says of a layer, with its names turned into another's."""
    account = point.accounts[layer]
    cores = account.cores
    return (
        renamed(point.names[layer]),
        point.kinds[layer],
        point.samples[layer] if point.samples else None,
        point.collectives[layer] if point.collectives else None,
        point.buffer_bytes[layer],
        [(renamed(n), point.parameters[n].shape, point.parameters[n].dtype) for n in point.held[layer]],
        [(n in point.experts, n in point.partial) for n in point.held[layer]],
        list(map(renamed, point.owned[layer])),
        list(map(renamed, account.parameters)),
        list(map(renamed, account.buffers)),
        list(map(renamed, account.gradients)),
        (account.saved_bytes, account.flops, account.forward_transient_bytes, account.backward_transient_bytes),
        [(core.seconds, sorted(core.kept.values())) for core in cores.found],
        cores.seconds,
    )


def _check_values(point: Point, units: Sequence[Sequence[int]]) -> None:
    """Refuse what goes between layers if the second unit and the third do not make and read the same."""
    second, third, last = units[1], units[2], units[3][-1]
    made = [[one for one in point.values if one.producer in unit] for unit in (second, third)]
    if [_said_of_value(one, len(second), second[0]) for one in made[0]] != [
        _said_of_value(one, 0, third[0]) for one in made[1]
    ]:
        raise NotAlike("blocks hand on other values")
    if any(layer > last for value in made[1] for layer in value.readers):
        raise NotAlike("what a block makes is read behind the stack")
    if any(layer > third[-1] for value in made[0] for layer in value.readers):
        raise NotAlike("what a block makes is read by more than the next")
    for value in point.values:
        begins = value.producer in units[0] and all(layer < third[0] for layer in value.readers)
        if value.producer < second[0] and not begins:
            local = [{layer - unit[0] for layer in value.readers if layer in unit} for unit in (second, third)]
            if local[0] != local[1]:
                raise NotAlike("blocks read other values")


def _said_of_value(value: Value, shift: int, start: int) -> tuple[Any, ...]:
    readers = tuple(sorted(layer + shift for layer in value.readers))
    saved = value.saved_by + shift if value.saved_by >= start else value.saved_by
    kinds = value.output, value.target, value.sent_back
    return value.producer + shift, value.name, value.shape, value.dtype, readers, saved, kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """Where layers of a shortened model lie in the whole one.

    Attributes
    ----------
    source : list of int
        For each layer of the whole the one watched that stands for it.
    after : int
        The first watched layer behind the unit that stands for others.
    more : int
        Units left out.
    units : sequence of sequence of int
        The watched layers of each watched unit.
    """

    source: list[int]
    after: int
    more: int
    units: Sequence[Sequence[int]]

    @property
    def size(self) -> int:
        """Layers in a unit."""
        return len(self.units[0])

    def place(self, layer: int) -> int:
        """Return where a watched layer lies in the whole."""
        return layer if layer < self.after else layer + self.size * self.more


def _layers(point: Point, spread: _Spread, names: Sequence[_Renaming]) -> Point:
    """Return the point with the layers that were left out, all but the values between them."""
    turns = [_same] * spread.after + [turn for turn in names for _ in range(spread.size)]
    turns += [_same] * (len(spread.source) - len(turns))

    def each(items: Sequence[Any]) -> list[Any]:
        return [items[i] for i in spread.source] if items else []

    def turned(items: Sequence[Any]) -> list[list[str]]:
        return [list(map(turn, items[i])) for i, turn in zip(spread.source, turns, strict=True)]

    return replace(
        point,
        names=[turn(point.names[i]) for i, turn in zip(spread.source, turns, strict=True)],
        paths=[turn(point.paths[i]) for i, turn in zip(spread.source, turns, strict=True)],
        kinds=each(point.kinds),
        parameters=_parameters(point.parameters, names),
        held=turned(point.held),
        owned=turned(point.owned),
        buffer_bytes=each(point.buffer_bytes),
        accounts=[_account(point.accounts[i], turn) for i, turn in zip(spread.source, turns, strict=True)],
        samples=each(point.samples),
        optimizer_bytes=each(point.optimizer_bytes),
        collectives=each(point.collectives),
        partial=_named(point.partial, names),
        experts=_named(point.experts, names),
        notes=list(point.notes),
    )


def _same(name: str) -> str:
    return name


def _account(account: LayerAccount, turn: Any) -> LayerAccount:
    return replace(
        account,
        parameters=dict.fromkeys(map(turn, account.parameters)),
        buffers=dict.fromkeys(map(turn, account.buffers)),
        gradients=list(map(turn, account.gradients)),
    )


def _parameters(held: Mapping[str, Any], names: Sequence[_Renaming]) -> dict[str, Any]:
    """Return all parameters in the order of the model: those of the units left out where they were."""
    of_model = [name for name in held if names[0].begins(name)]
    made: dict[str, Any] = {}
    for name, parameter in held.items():
        made[name] = parameter
        if name == of_model[-1]:
            made.update((turn(old), replace(held[old], name=turn(old))) for turn in names for old in of_model)
    return made


def _named(some: frozenset[str], names: Sequence[_Renaming]) -> frozenset[str]:
    return some | {turn(name) for turn in names for name in some if turn.begins(name)}


def _values(values: Sequence[Value], spread: _Spread) -> Iterator[Value]:
    """Yield what goes between all layers; of the values of one layer the order stays."""
    model, size = spread.units[-2], spread.size
    for value in values:
        if value.producer in model:  # each unit hands it on to the next
            for i in range(spread.more + 1):
                yield _moved(value, partial(_shifted, start=model[0], by=i * size))
            continue
        moved = _moved(value, spread.place)
        for layer in value.readers if value.producer < model[0] else ():
            if layer in model and not value.readers.keys().isdisjoint({layer - size, layer + size}):  # all units do
                moved.readers |= {layer + i * size: [] for i in range(1, spread.more + 1)}
        yield moved


def _moved(value: Value, place: Callable[[int], int]) -> Value:
    readers: dict[int, Any] = {place(layer): [] for layer in value.readers}
    return replace(value, producer=place(value.producer), readers=readers, saved_by=place(value.saved_by))


def _shifted(layer: int, *, start: int, by: int) -> int:
    return layer + by if layer >= start else layer
