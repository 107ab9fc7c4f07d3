"""Which modules of a model are experts, or tables of embeddings, and the part of them that one of several ranks has."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from mpsim.errors import MpsimError, at
from mpsim.workload.become import become
from mpsim.workload.dispatch import Dispatched
from mpsim.workload.divide import check_divides
from mpsim.workload.example import Example
from mpsim.workload.tables import SharedTables, holds_tables

__all__ = ["balance", "check_experts", "experts_of", "heaviest_rank", "share_experts", "stay_alone"]

STYLE = "experts"
"""The style that names a module of experts in `Example.tensor_parallel`."""


def experts_of(example: Example) -> dict[str, int]:
    """Return path → number of experts of each module that holds the experts of a layer, or of tables of embeddings.

    A module of experts takes tokens [n, hidden], which experts each token chose [n, k], and their shares [n, k], as
    all of transformers' do. It is known by its `num_experts`, the first dimension of all its own parameters, or named
    by the style ``experts``; it may then also hold lists of modules, one an expert. Tables are a list of embeddings
    that looks them all up (:mod:`mpsim.workload.tables`).

    Raises
    ------
    MpsimError
        A module that was named holds nothing that there is one of for each expert, or takes other arguments; or one
        holds weights too that are no expert's.

    Examples
    --------
    >>> import torch
    >>> class Experts(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.num_experts, self.up = 4, nn.Parameter(torch.ones(4, 8, 2))
    ...     def forward(self, tokens, chosen, shares): ...
    >>> experts_of(Example(model=nn.Sequential(nn.Linear(2, 2), Experts()), inputs=()))
    {'1': 4}
    """
    named = [glob for glob, style in example.tensor_parallel.items() if style == STYLE]
    found = {}
    for path, module in example.model.named_modules():
        if any(fnmatchcase(path, glob) for glob in named):
            found[path] = _named_count(path, module)
        elif holds_tables(module):
            found[path] = len(module)
        elif count := _known_count(module):
            found[path] = count
        if path in found and not holds_tables(module):
            _check_nothing_else(path, module)
    return found


def _check_nothing_else(path: str, module: nn.Module) -> None:
    """Refuse weights beside a layer's experts in their module: they would run on the rows sent to the experts."""
    own = {*(name for name, _ in module.named_parameters(recurse=False)), *_lists(module)}
    other = next((name for name, _ in module.named_parameters() if name.partition(".")[0] not in own), None)
    if other is not None:
        raise MpsimError(
            f"{_named(path, module)} holds {other} beside its experts, which would run on what is sent to these: take"
            " it out of the module of experts"
        )


def _named_count(path: str, module: nn.Module) -> int:
    counts = {*(len(item) for item in module.parameters(recurse=False)), *map(len, _lists(module).values())}
    if len(counts) != 1:
        have = " and ".join(map(str, sorted(counts))) or "none"
        raise MpsimError(
            f"{_named(path, module)}: its parameters or lists of modules have lengths {have}, expected one"
            " for each expert"
        )
    if not _takes_three(module):
        raise MpsimError(
            f"{_named(path, module)}: a module of experts takes tokens, chosen experts and their shares, its"
            f" forward{inspect.signature(module.forward)} does not"
        )
    return counts.pop()


def _named(path: str, module: nn.Module) -> str:
    return f"{path or 'the model'} ({type(module).__name__})"


def _known_count(module: nn.Module) -> int:
    """Return the number of experts of a module that is known for one; 0 of others, such as a router."""
    own = list(module.parameters(recurse=False))
    count = getattr(module, "num_experts", None)
    known = isinstance(count, int) and any(item.dim() > 2 for item in own) and all(len(item) == count for item in own)
    return count if known and count and _takes_three(module) else 0


def _takes_three(module: nn.Module) -> bool:
    try:
        inspect.signature(module.forward).bind(None, None, None)
    except TypeError:
        return False
    return True


def _lists(module: nn.Module) -> dict[str, nn.ModuleList]:
    return {name: child for name, child in module.named_children() if isinstance(child, nn.ModuleList)}


def check_experts(example: Example, ranks: int) -> dict[str, int]:
    """Return the modules of experts that `ranks` can share, and how many experts each has.

    Raises
    ------
    MpsimError
        There are none, their number does not divide, or an imbalance is of tables alone, which no tokens choose.

    Examples
    --------
    >>> check_experts(Example(model=nn.Linear(1, 1), inputs=()), 2)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: Linear has no experts for ep=2 ranks to share: give ep 1, or name what takes tokens, \
chosen experts and shares, as in tensor_parallel={'*.experts': 'experts'}
    """
    found = experts_of(example)
    if not found:
        raise MpsimError(
            f"{type(example.model).__name__} has no experts for ep={ranks} ranks to share: give ep 1, or name what"
            f" takes tokens, chosen experts and shares, as in tensor_parallel={{'*.experts': {STYLE!r}}}"
        )
    for path, count in found.items():
        module = example.model.get_submodule(path)
        what = "tables" if holds_tables(module) else "experts"
        try:
            check_divides({what: count}, ranks, "expert-parallel", together=found.values())
        except MpsimError as error:
            raise at(_named(path, module), error) from None
    if example.imbalance > 1 and all(holds_tables(example.model.get_submodule(path)) for path in found):
        raise MpsimError(
            f"imbalance={example.imbalance:g} is of tokens that choose experts, {type(example.model).__name__} has"
            " tables alone, each looked up for every sample: leave it out"
        )
    return found


def heaviest_rank(example: Example, ranks: int) -> int:
    """Return which of the ranks that share experts has most bytes of them: tables may be of unlike sizes.

    Examples
    --------
    >>> class Tables(nn.ModuleList):
    ...     def forward(self, rows): ...
    >>> model = nn.Sequential(Tables(nn.Embedding(rows, 2) for rows in (4, 1, 9, 2)))
    >>> heaviest_rank(Example(model=model, inputs=()), 2)
    1
    """
    sizes = [0] * ranks
    for path, count in check_experts(example, ranks).items():
        module = example.model.get_submodule(path)
        if holds_tables(module):
            for number, table in enumerate(module):
                sizes[number * ranks // count] += table.weight.nbytes
    return sizes.index(max(sizes))


def balance(example: Example, experts: Mapping[str, int], ranks: int) -> tuple[str, ...]:
    """Return which of the ranks that share experts is taken for all of them, in a phrase each.

    Examples
    --------
    >>> balance(Example(model=nn.ModuleDict({"experts": nn.Linear(1, 1)}), inputs=()), {"experts": 8}, 2)[0]
    "ep=2: the busiest rank's experts get as many tokens as a rank sends, each of them its equal part"
    """
    tables = [path for path in experts if holds_tables(example.model.get_submodule(path))]
    found = [
        f"ep={ranks}: the rank whose {experts[path] // ranks} of {experts[path]} tables ({path}) are the largest"
        for path in tables
    ]
    if len(tables) < len(experts):
        gets = f"{example.imbalance:g} times as many tokens" if example.imbalance > 1 else "as many tokens"
        found.append(f"ep={ranks}: the busiest rank's experts get {gets} as a rank sends, each of them its equal part")
    return tuple(found)


def share_experts(
    model: nn.Module, experts: Mapping[str, int], ranks: int, *, rank: int, imbalance: float, group: Any
) -> frozenset[str]:
    """Leave to each module of experts those of one rank, in place; return the names of the parameters left.

    Parameters
    ----------
    model : torch.nn.Module
        Of which each rank has a part; its parameters are not written to.
    experts : mapping of str to int
        As `check_experts` returns them.
    ranks, rank : int
        Those that share them, and which one.
    imbalance : float
        What a rank receives, in what it sends.
    group : ProcessGroup
        Over which tokens are sent, until `stay_alone`.
    """
    names = []
    cut: dict[nn.Parameter, nn.Parameter] = {}
    for path, count in experts.items():
        module, held, first = model.get_submodule(path), count // ranks, rank * (count // ranks)
        sharing = SharedTables if holds_tables(module) else Dispatched
        if sharing is SharedTables:
            _keep_tables(module, held, first)
            module.first = first
        else:
            _cut(module, count, held, first, cut)
            module.imbalance = imbalance
        become(module, sharing)
        module.ranks, module.held, module.group = ranks, held, group
        prefix = f"{path}." if path else ""
        names += [prefix + name for name, _ in module.named_parameters()]
    return frozenset(names)


def _keep_tables(module: nn.ModuleList, held: int, first: int) -> None:
    """Leave `held` tables, from the `first` on, with parameters of their own."""
    kept = list(module)[first : first + held]
    module._modules = {str(number): table for number, table in enumerate(kept)}


def _cut(module: nn.Module, count: int, held: int, first: int, cut: dict[nn.Parameter, nn.Parameter]) -> None:
    """Leave `held` experts of `count`, from the `first` on, and what the module knows of their number.

    What several layers share stays shared: `cut` has what is left of each parameter.
    """
    for name, whole in list(module._parameters.items()):
        if whole is None:
            continue
        if whole not in cut:
            cut[whole] = nn.Parameter(whole.detach()[first : first + held], requires_grad=whole.requires_grad)
        module._parameters[name] = cut[whole]
    for name, those in _lists(module).items():
        setattr(module, name, those[first : first + held])
    for name, value in list(vars(module).items()):
        if isinstance(value, int) and not isinstance(value, bool) and value == count and name in _COUNTS:
            setattr(module, name, held)


_COUNTS = ("num_experts", "n_experts", "num_local_experts", "n_routed_experts", "n_expert", "experts")


def stay_alone(model: nn.Module) -> None:
    """Let the experts of a rank exchange nothing: rows of its own stand for what it would receive."""
    for module in model.modules():
        if isinstance(module, Dispatched | SharedTables):
            module.group = None
