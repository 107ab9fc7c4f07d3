"""A sequence shared by the ranks that share weights, where they would all do the same work.

As in Megatron-LM (https://arxiv.org/abs/2205.05198, section 4.2.2): norms, dropout and residual sums have 1/n of the
sequence. What shares its outputs is given the whole (all-gather), what shares its inputs gives each rank its part of
the sum (reduce-scatter), and backward is the mirror. An embedding whose tokens are shared gives parts too, a head
reads the whole. Experts whose features the ranks share are given the tokens of all, with their experts and shares; a
router has its own. Latent attention computes its first projections on the whole, on every rank::

      1/n            the whole                 1/n           the whole         1/n
    norm ─ all-gather ─ q k v · attention · o ─ reduce-scatter ─ norm ─ all-gather ─ up · down ─ reduce-scatter

The ranks add up their parts of the gradients of what ran on parts of a sequence, such as norms, once a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from mpsim.workload.become import become
from mpsim.workload.collective_recorder import RecordedCollective
from mpsim.workload.example import Example
from mpsim.workload.parallel_styles import SUMMED
from mpsim.workload.sequences import check_length, cut_sequences, sequence_lengths

__all__ = ["Regions", "exchange_sequence", "gathered_again", "regions_of", "share_sequence", "stand_in_for_peers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """Where a model needs whole sequences, and where it leaves them.

    Attributes
    ----------
    whole : dict of str to bool
        Modules that are given the whole sequence; of those marked True each rank has a part of their work.
    summed : tuple of str
        Linears whose outputs are summed over the ranks.
    embeddings : dict of str to bool
        What makes features of the tokens of all ranks; of those marked True each rank has some tokens' features.
    experts : tuple of str
        Modules of a mixture's experts, of each of which every rank has some features.
    headed : bool
        Whether a head reads whole sequences, and leaves them whole.
    partial : frozenset of str
        Parameters of what runs on a part of the sequence.

    Examples
    --------
    >>> Regions(whole={"mlp": True}, summed=("mlp.down",), embeddings={}, partial=frozenset(["norm.weight"])).summed
    ('mlp.down',)
    """

    whole: Mapping[str, bool]
    summed: tuple[str, ...]
    embeddings: Mapping[str, bool]
    partial: frozenset[str]
    experts: tuple[str, ...] = ()
    headed: bool = False


_HEADS = ("vocabulary", "colwise_gather_output")


def regions_of(model: nn.Module, styles: Mapping[str, str]) -> Regions:
    """Return where a model with such tensor-parallel styles needs whole sequences.

    A sequence is gathered for the parent of Linears that share their outputs, an attention or a feed-forward, unless
    that has norms or replicated weights of its own; then for each of these Linears. An embedding that every rank has
    embeds a rank's own part of the tokens, unless a head has the same weight: then the gradients of both are of all.

    Examples
    --------
    >>> model = nn.Sequential(nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)))
    >>> regions = regions_of(model, {"1.0": "colwise", "1.2": "rowwise"})
    >>> regions.whole, regions.summed, sorted(regions.partial)
    ({'1': True}, ('1.2',), ['0.bias', '0.weight'])
    """
    linears = {path: style for path, style in styles.items() if isinstance(model.get_submodule(path), nn.Linear)}
    head = next(iter(reversed(linears)), "")
    whole: dict[str, bool] = {}
    heads = [path for path, style in linears.items() if style in _HEADS or (style == "replicate" and path == head)]
    latent = [path.rpartition(".")[0] for path, style in linears.items() if style == "mla_kv_a_proj"]
    whole |= dict.fromkeys(latent, False)
    for path, style in linears.items():
        if style == "colwise" and not _inside(path, latent):
            parent = path.rpartition(".")[0]
            inside = parent if parent and _is_region(model, parent, styles, model.get_submodule(path)) else path
            whole[inside] = True
        elif path in heads:
            whole[path] = style in _HEADS
    summed = tuple(path for path, style in linears.items() if style.startswith("rowwise"))
    experts = tuple(path for path, style in styles.items() if style == "experts")
    tied = [id(model.get_submodule(path).weight) for path in linears]
    embeddings = {
        path: style == "vocabulary"
        for path, style in styles.items()
        if isinstance(one := model.get_submodule(path), nn.Embedding)
        and (style == "vocabulary" or (style == "replicate" and id(one.weight) in tied))
    }
    apart = (*whole, *summed, *embeddings, *experts)
    held = {id(item) for path in apart for item in model.get_submodule(path).parameters()}
    names = {
        name
        for path, module in model.named_modules()
        if not _inside(path, apart)
        for name, item in module.named_parameters(path, recurse=False)
        if id(item) not in held
    }
    return Regions(
        whole=whole, summed=summed, embeddings=embeddings, partial=frozenset(names), experts=experts, headed=bool(heads)
    )


def _inside(path: str, others: Any) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in others)


def _is_region(model: nn.Module, parent: str, styles: Mapping[str, str], linear: nn.Linear) -> bool:
    """Whether all that a module has computes on what its Linears share: norms of heads do, of features do not."""
    for path, module in model.get_submodule(parent).named_modules(prefix=parent):
        own = list(module.parameters(recurse=False))
        if path in styles:
            if styles[path] not in ("colwise", "rowwise", SUMMED):
                return False
        elif any(item.numel() == linear.in_features for item in own):
            return False
    return True


def share_sequence(example: Example, ranks: int, rank: int, *, target: bool) -> Example:
    """Let the model of an example run on a rank's part of the sequences that it is fed, from now on.

    Parameters
    ----------
    example : Example
        Every rank is fed whole sequences; the model is changed.
    ranks, rank : int
        Of those that share them.
    target : bool
        Whether the target is shared too, of which the example that is returned has a part; a head gives whole
        sequences.

    Raises
    ------
    MpsimError
        There is no sequence, or it does not divide.

    Examples
    --------
    >>> model = nn.Linear(4, 4)
    >>> _ = share_sequence(Example(model=model, inputs=(torch.ones(2, 6, 4),)), 2, 0, target=False)
    >>> model(torch.ones(2, 6, 4)).shape
    torch.Size([2, 3, 4])
    """
    for length in sorted(sequence_lengths(example)):
        check_length(length, ranks, f"the {ranks} tensor-parallel ranks that share it")

    def part(item: torch.Tensor) -> torch.Tensor:
        return item.chunk(ranks, 1)[rank]

    without_batch = dataclasses.replace(example, inputs=(), keywords={}, target=None)
    become(example.model, _Fed, example=without_batch, part=staticmethod(part))
    return dataclasses.replace(example, target=cut_sequences(example, part, target=True).target) if target else example


class _Fed:
    """A model that is fed whole sequences and runs on a part of them."""

    example: Example
    part: Callable[[torch.Tensor], torch.Tensor]

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        fed = dataclasses.replace(self.example, inputs=inputs, keywords=keywords)
        cut = cut_sequences(fed, self.part, target=False)
        return super().forward(*cut.inputs, **cut.keywords)  # type: ignore[misc]


def _is_tensor(item: Any) -> bool:
    return isinstance(item, torch.Tensor)


def exchange_sequence(model: nn.Module, regions: Regions, mesh: DeviceMesh) -> None:
    """Let the modules of a sharded model exchange their parts of a sequence, by hooks.

    What shares its inputs or its tokens does so by its own style (``output_layouts=Shard(1)``).

    Examples
    --------
    >>> regions = Regions(whole={}, summed=(), embeddings={}, partial=frozenset())
    >>> exchange_sequence(nn.Identity(), regions, None)
    """
    shared: dict[tuple[str, int], tuple[Any, Any]] = {}
    for path, divided in regions.whole.items():

        def gather(tensor: torch.Tensor, parent: str = path.rpartition(".")[0], divided: bool = divided) -> Any:
            key = (parent, id(tensor))
            if key not in shared:  # the tensor is kept beside its image, so that no other takes its id
                part = DTensor.from_local(tensor, mesh, (Shard(1),), run_check=False)
                shared[key] = (tensor, part.redistribute(placements=(Replicate(),)))
            whole = shared[key][1]
            return whole if divided else whole.to_local()

        def before(_: Any, inputs: Any, keywords: Any, gather: Callable[[Any], Any] = gather) -> Any:
            return _on_whole(inputs, keywords, mesh.size(), gather)

        model.get_submodule(path).register_forward_pre_hook(before, prepend=True, with_kwargs=True)
    for path, divided in regions.embeddings.items():
        module = model.get_submodule(path)
        module.register_forward_pre_hook(lambda _, inputs: (_tokens_of_all(inputs[0], mesh.size()),), prepend=True)
        if not divided:
            module.register_forward_hook(lambda _, inputs, output: _part_of_replicated(output, mesh))


def gathered_again(collectives: Iterable[RecordedCollective], regions: Regions) -> tuple[RecordedCollective, ...]:
    """Return what is gathered once more in backward, beside it, where ranks keep their parts alone.

    So does Megatron-LM for the gradients of weights (https://arxiv.org/abs/2205.05198, section 4.2.2).

    Examples
    --------
    >>> regions = Regions(whole={"mlp": True}, summed=(), embeddings={}, partial=frozenset())
    >>> one = RecordedCollective(module="mlp", kind="all_gather", bytes=64, phase="forward", when="before")
    >>> [(again.phase, again.when) for again in gathered_again([one], regions)]
    [('backward', 'beside')]
    """
    return tuple(
        dataclasses.replace(one, phase="backward", when="beside")
        for one in collectives
        if (one.kind, one.phase, one.axis) == ("all_gather", "forward", "tp") and regions.whole.get(one.module)
    )


def _part_of_replicated(whole: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    found = DTensor.from_local(whole, mesh, (Replicate(),), run_check=False).redistribute(placements=(Shard(1),))
    part: torch.Tensor = found.to_local()
    return part


def _tokens_of_all(tokens: torch.Tensor, ranks: int) -> torch.Tensor:
    """Return as many tokens as all ranks have, which each is fed; not those of the others, but it does not matter."""
    return torch.cat([tokens] * ranks, -1)


def _on_whole(inputs: Any, keywords: Any, ranks: int, gather: Callable[[torch.Tensor], Any]) -> Any:
    """Return the arguments of a module that computes on whole sequences.

    Features come from all ranks. What goes with them, rotary embeddings and masks, every rank has whole; as it was made
    for a part here, it is repeated, which takes as long as a copy of it.
    """
    features = next(item for item in (*inputs, *keywords.values()) if _is_tensor(item) and item.is_floating_point())
    length, width = features.shape[1], features.shape[-1]

    def whole(item: Any) -> Any:
        if isinstance(item, tuple | list):
            return type(item)(whole(each) for each in item)
        if not _is_tensor(item):
            return item
        if item is features or (item.requires_grad and item.dim() == 3 and item.shape[-1] == width):
            return gather(item)
        if item.dim() == 4 and item.shape[-2:] == (length, length):  # a mask
            return item.repeat(1, 1, ranks, ranks)
        made_for_part = item.is_floating_point() and item.dim() in (2, 3) and item.shape[1] == length
        return torch.cat([item] * ranks, 1) if made_for_part else item

    return tuple(whole(item) for item in inputs), {name: whole(item) for name, item in keywords.items()}


class _Whole:
    """A module that computes on whole sequences: the parts of other ranks are stood in for by copies of its own."""

    ranks = 1

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        inputs, keywords = _on_whole(inputs, keywords, self.ranks, self._gathered)
        return super().forward(*inputs, **keywords)  # type: ignore[misc]

    def _gathered(self, part: torch.Tensor) -> torch.Tensor:
        return torch.cat([part, *[part.detach()] * (self.ranks - 1)], 1)


class _Part:
    """A module that leaves each rank its part of the sequence."""

    ranks = 1

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self._part(super().forward(*inputs, **keywords))  # type: ignore[misc]

    def _part(self, whole: torch.Tensor) -> torch.Tensor:
        return whole.narrow(1, 0, whole.shape[1] // self.ranks).contiguous()


class _TokensOfAll:
    """A mixture's experts that read the tokens of all ranks, and leave each rank its own."""

    ranks = 1

    def forward(self, *inputs: torch.Tensor) -> Any:
        tokens = inputs[0].shape[0]
        whole = super().forward(*(torch.cat([item, *[item.detach()] * (self.ranks - 1)]) for item in inputs))  # type: ignore[misc]
        return whole.narrow(0, 0, tokens).contiguous()


class _PartOfTokens(_Part):
    """An embedding of the tokens of all ranks that leaves each its part."""

    def forward(self, tokens: torch.Tensor) -> Any:
        return super().forward(_tokens_of_all(tokens, self.ranks))


def stand_in_for_peers(model: nn.Module, regions: Regions, ranks: int) -> None:
    """Let the plain modules of one rank compute on as long sequences as it does, by itself.

    A gathered sequence is a copy of the rank's own part, `ranks` times; that copy is the one thing that is run and not
    part of the rank's work, a pass over memory as a collective makes one. Of a sum the rank keeps a part.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> regions = Regions(whole={"0": True}, summed=("2",), embeddings={}, partial=frozenset())
    >>> stand_in_for_peers(model, regions, 2)
    >>> model[0](torch.ones(1, 3, 4)).shape, model(torch.ones(1, 3, 4)).shape, type(model[0]).__name__
    (torch.Size([1, 6, 8]), torch.Size([1, 3, 4]), 'Linear')
    """
    done: set[int] = set()
    kinds: list[tuple[type, Any]] = [
        (_Whole, regions.whole), (_Part, regions.summed), (_PartOfTokens, regions.embeddings),
        (_TokensOfAll, regions.experts),
    ]  # fmt: skip
    for kind, paths in kinds:
        for path in paths:
            module = model.get_submodule(path)
            if id(module) not in done:  # a module can stand at several paths
                done.add(id(module))
                become(module, kind, ranks=ranks)
