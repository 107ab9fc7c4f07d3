"""Turn a model into what one of the ranks that share its layers runs, and learn what it exchanges with the others.

PyTorch's own tensor-parallel API shards the model under a process group whose other ranks do not exist: that
run shows every collective. The plain module that is left when the parallel wrappers are taken off does exactly
one rank's work, and can be timed alone.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor import _random as tensor_random
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore

from mpsim.errors import MpsimError
from mpsim.workload.collective_recorder import CollectiveRecorder, RecordedCollective, watch_modules
from mpsim.workload.context_parallel import Context, check_method, cut_context, share_context, without_masks
from mpsim.workload.example import Example, default_loss
from mpsim.workload.experts import balance, check_experts, share_experts, stay_alone
from mpsim.workload.found_plans import planned
from mpsim.workload.gathered import LocalGathered, LocalSplit
from mpsim.workload.padding import pad_vocabulary
from mpsim.workload.parallel_styles import SUMMED, parallel_styles
from mpsim.workload.partial_styles import ExpertsParallel, GatheredColwise, ReplicatedSum, RopeSum
from mpsim.workload.ring_attention import Peers
from mpsim.workload.sequence_parallel import (
    Regions,
    exchange_sequence,
    gathered_again,
    regions_of,
    share_sequence,
    stand_in_for_peers,
)
from mpsim.workload.sequences import sequence_lengths
from mpsim.workload.split import WHOLE, Split, check_split, split_of
from mpsim.workload.unshared import refusing_unshared
from mpsim.workload.vocabulary import LocalEmbedding, local_loss, refused_loss, sharded_loss

__all__ = ["LocalShard", "RecordedCollective", "local_shard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalShard:
    """One rank's part of a model.

    Attributes
    ----------
    example : Example
        A plain module with this rank's parameters, and the inputs, target and loss of the whole model.
        Its collectives are left out: a partial sum goes on as if it were the sum.
    collectives : tuple of RecordedCollective
        What the rank exchanges in one forward and backward, in the order in which it happens.
    partial : frozenset of str
        Parameters of whose gradients each of the ranks that share a sequence has a part.
    notes : tuple of str
        What was changed of the model for it to be shared.
    experts : frozenset of str
        The parameters of experts that the rank has of those that ranks share.

    Examples
    --------
    >>> model = nn.Linear(2, 2)
    >>> LocalShard(example=Example(model=model, inputs=(torch.ones(1, 2),)), collectives=()).collectives
    ()
    """

    example: Example
    collectives: tuple[RecordedCollective, ...]
    partial: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    experts: frozenset[str] = frozenset()


def local_shard(
    example: Example,
    split: Split | int,
    *,
    rank: int = 0,
    context: str = "all-gather",
    regather: bool = False,
    computing: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    known: tuple[RecordedCollective, ...] | None = None,
) -> LocalShard:
    """Return the work of one of the ranks of a split.

    Modules that hold weights (parameters of two dimensions or more) are sharded as `example.tensor_parallel`
    says: the first glob that matches a module's path gives its style. All others are computed in full by every
    rank. Where nothing is said a plan is looked for (:func:`mpsim.workload.found_plans.planned`), and noted. The model
    of `example` stays as it is.

    ================================== =======================================================================
    ``colwise``                        a Linear's outputs, or an Embedding's features, are shared
    ``rowwise``                        a Linear's inputs are shared; the outputs are summed over the ranks
    ``vocabulary``                     an Embedding's tokens, or the logits of the last Linear, are shared; the
                                       loss is cross-entropy; tokens that do not divide are padded
    ``colwise_gather_output``          a Linear's outputs are shared, and gathered behind it
    ``rowwise_split_input``            as ``rowwise``, of an input that every rank has
    ``experts``                        the inner features of each expert of a mixture are shared; by ep ranks its
                                       experts, of transformers' own without being named
    ``replicate``                      every rank has the whole module
    ``replicated_with_grad_allreduce`` every rank has the whole module, and runs it on its own heads alone
    ``mla_kv_a_proj``                  every rank has the whole first projection of latent keys and values
    ================================== =======================================================================

    Parameters
    ----------
    example : Example
        The whole model, real or fake.
    split : Split or int
        Ranks that share the model, by axis; a number is of tensor-parallel ones.
    rank : int
        Whose part to return, tp innermost, then cp, then ep; the ranks' parts have the same sizes.
    context : str
        How ranks that share sequences share attention: ``all-gather``, ``ring`` or ``ulysses``.
    regather : bool
        Whether tensor-parallel ranks that share sequences keep their parts alone, and gather these again in backward.
    computing : callable
        Makes the context in which forward and loss run, such as autocast: it tells the types that are exchanged.
    known : tuple of RecordedCollective or None
        What the rank exchanges, where that is known of the same model; by default it is run to learn it.

    Raises
    ------
    MpsimError
        A module without a tensor-parallel form, a size that does not divide, or a process group is running.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> plan = {"0": "colwise", "1": "rowwise"}
    >>> shard = local_shard(Example(model=model, inputs=(torch.rand(3, 4),), tensor_parallel=plan), 2)
    >>> [tuple(parameter.shape) for parameter in shard.example.model.parameters()]
    [(4, 4), (4,), (2, 4), (2,)]
    >>> [(one.module, one.kind, one.bytes, one.phase, one.axis) for one in shard.collectives]
    [('1', 'all_reduce', 24, 'forward', 'tp')]
    """
    split = split_of(split)
    _check(split, rank)
    if split == WHOLE:
        return LocalShard(example=example, collectives=())
    example, found = planned(example) if split.tp > 1 else (example, ())
    part = _part_of(example, split, rank, context)
    if split.cp > 1:
        example = cut_context(example, context, part.peers)
    with _fake_ranks(split, rank, _device(example.model)) as mesh, _fake_mode(example):
        model = _alias(example.model)
        experts, notes = _leave_own(model, part, mesh, example.imbalance)
        hooks = {module: _hooks(module) for module in model.modules()}
        local = _joined(dataclasses.replace(example, model=model), part, mesh)
        collectives = known if known is not None else _exchanged(local, part, mesh, computing, regather)
        stay_alone(model)
        _strip(model, hooks)
    return LocalShard(
        example=_alone(local, part, collectives),
        collectives=collectives,
        partial=part.regions.partial if part.regions else frozenset(),
        experts=experts,
        notes=found + notes + balance(example, part.mixtures, split.ep),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one rank has of a model, found before anything is changed.

    Attributes
    ----------
    split, rank
        Which rank it is, of which.
    context : str
        How attention is shared by the ranks that share sequences.
    styles : mapping of str to str
        Of the modules that tensor-parallel ranks share.
    heads : list of str
        Those of them whose logits stay apart.
    regions : Regions or None
        Where these ranks need whole sequences, if they share those too.
    mixtures : mapping of str to int
        The experts of each module whose experts ranks share.
    lengths : frozenset of int
        Of the whole sequences that ranks share; none where they share none.
    """

    split: Split
    rank: int
    context: str
    styles: Mapping[str, str]
    heads: list[str]
    regions: Regions | None
    mixtures: Mapping[str, int]
    lengths: frozenset[int]

    @property
    def tensor_rank(self) -> int:
        return self.rank % self.split.tp

    @property
    def peers(self) -> Peers:
        return Peers(self.split.cp, self.rank // self.split.tp % self.split.cp)

    @property
    def expert_rank(self) -> int:
        return self.rank // (self.split.tp * self.split.cp)


def _part_of(example: Example, split: Split, rank: int, context: str) -> _Part:
    """Return what a rank is to have of a model, having checked that it can be shared so."""
    styles = parallel_styles(example, split.tp) if split.tp > 1 else {}
    mixtures = check_experts(example, split.ep) if split.ep > 1 else {}
    check_method(context)
    heads = [path for path, style in styles.items() if style == "vocabulary" and _is_head(example.model, path)]
    _check_loss(example, heads)
    return _Part(
        split=split,
        rank=rank,
        context=context,
        styles=styles,
        heads=heads,
        regions=regions_of(example.model, styles) if split.sequence else None,
        mixtures=mixtures,
        lengths=sequence_lengths(example) if split.cp > 1 or split.sequence else frozenset(),
    )


def _leave_own(
    model: nn.Module, part: _Part, mesh: DeviceMesh, imbalance: float
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Change of a model what stays so: vocabularies, experts, masks; return the experts' parameters, and notes."""
    notes = pad_vocabulary(model, part.styles, part.split.tp)
    experts: frozenset[str] = frozenset()
    if part.mixtures:
        group = mesh["ep"].get_group()
        experts = share_experts(
            model, part.mixtures, part.split.ep, rank=part.expert_rank, imbalance=imbalance, group=group
        )
    return experts, notes + (without_masks(model, max(part.lengths)) if part.split.cp > 1 else ())


def _joined(example: Example, part: _Part, mesh: DeviceMesh) -> Example:
    """Let tensor-parallel ranks share the weights of an example's model, and its sequences, and exchange for it."""
    if part.split.tp == 1:
        return example
    _parallelize(example.model, part.styles, mesh["tp"], sequence=part.split.sequence)
    if example.shard is not None:
        example.shard(example.model, part.split.tp)
    if part.regions is not None:
        example = share_sequence(example, part.split.tp, part.tensor_rank, target=not part.regions.headed)
        exchange_sequence(example.model, part.regions, mesh["tp"])
    return example


def _alone(example: Example, part: _Part, collectives: Sequence[RecordedCollective]) -> Example:
    """Let a rank's plain modules compute by themselves as much as they did among the others."""
    model, split = example.model, part.split
    _place(model, part.styles, part.tensor_rank, split.tp)
    if part.regions is not None:
        stand_in_for_peers(model, part.regions, split.tp)
    if split.cp > 1:
        attending = [item.module for item in collectives if item.axis == "cp"]
        _check_attention(model, attending)
        share_context(model, attending, part.context, part.peers)
    if not part.heads or example.loss is None:
        return example
    tokens = model.get_submodule(part.heads[0]).weight.shape[0]
    own = partial(local_loss, loss=example.loss, tokens=tokens, head=part.heads[0])
    return dataclasses.replace(example, loss=own)


def _check_attention(model: nn.Module, attending: Sequence[str]) -> None:
    if not attending:
        raise MpsimError(
            f"{type(model).__name__} does not call torch.nn.functional.scaled_dot_product_attention, by which alone"
            " ranks share attention: build it with that (transformers: attn_implementation='sdpa'), or leave cp out"
        )


def _check(split: Split, rank: int) -> None:
    check_split(split)
    ranks = split.tp * split.cp * split.ep
    if not 0 <= rank < ranks:
        raise MpsimError(f"rank is {rank}, expected 0 to {ranks - 1}")


def _check_loss(example: Example, heads: list[str]) -> None:
    """Refuse logits that ranks share where the model itself makes its loss of them."""
    if heads and example.loss is None and "labels" in example.keywords:
        raise MpsimError(
            f"{heads[0]} has the style 'vocabulary', and the model makes its own loss of whole logits: give it no"
            " labels but loss=, or the style 'colwise_gather_output'"
        )


def _is_head(model: nn.Module, path: str) -> bool:
    return isinstance(model.get_submodule(path), nn.Linear)


def _place(model: nn.Module, styles: Mapping[str, str], rank: int, ranks: int) -> None:
    """Tell each embedding which tokens are its own, and Linears whose outputs or inputs are whole where theirs lie.

    In place, for a module can stand at several paths.
    """
    for path, style in styles.items():
        module = model.get_submodule(path)
        if style == "vocabulary" and isinstance(module, nn.Embedding):
            module.__class__, module.first = LocalEmbedding, rank * module.weight.shape[0]
        if style == "colwise_gather_output":
            module.__class__, module.ranks = LocalGathered, ranks
        if style == "rowwise_split_input":
            module.__class__, module.first = LocalSplit, rank * module.weight.shape[1]


def _alias(model: nn.Module) -> nn.Module:
    """Return a copy of the module tree whose parameters share storage, but no gradients, with the original.

    Buffers are copied here because deepcopy would copy a fake buffer's mode with it.
    """
    memo: dict[int, torch.Tensor] = {id(buffer): buffer.detach().clone() for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    return copy.deepcopy(model, memo)


def _hooks(module: nn.Module) -> tuple[set[int], set[int]]:
    return set(module._forward_pre_hooks), set(module._forward_hooks)


def _device(model: nn.Module) -> str:
    parameter = next(model.parameters(), None)
    return "cpu" if parameter is None or parameter.is_meta else str(parameter.device.type)


def _fake_mode(example: Example) -> contextlib.AbstractContextManager[Any]:
    """Return the mode in which a fake model was made, so that what it makes itself is fake too."""
    modes = [value.fake_mode for value in example.model.parameters() if isinstance(value, FakeTensor)]
    return modes[0] if modes else contextlib.nullcontext()


@contextlib.contextmanager
def _fake_ranks(split: Split | int, rank: int, device: str) -> Iterator[DeviceMesh]:
    """Stand as one of the ranks of a split, whose collectives do nothing; leave no trace.

    The mesh has its axes of two ranks or more: tp innermost, then cp, then ep.
    """
    if dist.is_initialized():
        raise MpsimError("a torch process group is already running: shard the model outside of it")
    tracker = tensor_random._rng_tracker
    index = torch.cuda.current_device() if device == "cuda" else None
    sizes = {name: getattr(split_of(split), name) for name in ("ep", "cp", "tp")}
    sizes = {name: size for name, size in sizes.items() if size > 1}
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=math.prod(sizes.values()))
    try:
        yield init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # it has groups of this mesh, and takes the next one for it
        tensor_random._rng_tracker = tracker
        if index is not None:
            torch.cuda.set_device(index)


def _parallelize(model: nn.Module, styles: Mapping[str, str], mesh: DeviceMesh, *, sequence: bool = False) -> None:
    """Shard each module in place; parameters that were tied stay so."""
    shared: dict[tuple[str, int], tuple[Any, Any]] = {}
    tied: dict[nn.Parameter, nn.Parameter] = {}
    for path, style in styles.items():
        if style == "replicate":
            continue
        module = model.get_submodule(path)
        whole = dict(module._parameters)
        parallelize_module(module, mesh, _parallel_style(model, module, style, sequence), src_data_rank=None)
        for name, parameter in whole.items():
            if parameter is not None:
                module._parameters[name] = tied.setdefault(parameter, module._parameters[name])
        if isinstance(module, nn.Linear) and style in _READS_ALL:
            module.register_forward_pre_hook(_share_input(path.rpartition(".")[0], shared, mesh), prepend=True)
    for module in model.modules():  # a parameter may stand in a module that has no style, as the bias of BERT's head
        for name, parameter in module._parameters.items():
            module._parameters[name] = tied.get(parameter, parameter)


# Styles of a Linear that reads the whole of its input, and computes a part of the input's gradient.
_READS_ALL = ("colwise", "colwise_gather_output", "vocabulary")


def _parallel_style(model: nn.Module, module: nn.Module, style: str, sequence: bool) -> ParallelStyle:
    summed = Shard(1) if sequence else Replicate()
    if style == "vocabulary" and isinstance(module, nn.Embedding):
        return RowwiseParallel(input_layouts=Replicate(), output_layouts=summed)
    made: dict[str, Callable[[], ParallelStyle]] = {
        "colwise": ColwiseParallel,
        "rowwise": lambda: RowwiseParallel(output_layouts=summed),
        "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate(), output_layouts=summed),
        "vocabulary": lambda: ColwiseParallel(use_local_output=False),
        "colwise_gather_output": GatheredColwise,
        "experts": lambda: ExpertsParallel(sequence=sequence),
        SUMMED: ReplicatedSum,
        "mla_kv_a_proj": lambda: RopeSum(model.config.get_text_config().qk_rope_head_dim),
    }
    return made[style]()


def _share_input(parent: str, shared: dict[tuple[str, int], tuple[Any, Any]], mesh: DeviceMesh) -> Any:
    """Return a hook that gives the modules of one parent that read one tensor the same distributed input.

    Query, key and value then sum their gradients of it before the one all-reduce, as runtimes do; each
    would make its own otherwise.
    """

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        tensor = inputs[0]
        if not isinstance(tensor, torch.Tensor) or isinstance(tensor, DTensor):
            return inputs
        key = (parent, id(tensor))
        if key not in shared:  # the tensor is kept beside its image, so that no other takes its id
            shared[key] = (tensor, DTensor.from_local(tensor, mesh, (Replicate(),), run_check=False))
        return (shared[key][1], *inputs[1:])

    return hook


def _exchanged(
    example: Example,
    part: _Part,
    mesh: DeviceMesh,
    computing: Callable[[], contextlib.AbstractContextManager[Any]],
    regather: bool,
) -> tuple[RecordedCollective, ...]:
    """Return what a rank exchanges, with what it gathers again in backward."""
    found = _record(example, part, mesh, computing)
    return found + (gathered_again(found, part.regions) if regather and part.regions else ())


def _record(
    example: Example,
    part: _Part,
    mesh: DeviceMesh,
    computing: Callable[[], contextlib.AbstractContextManager[Any]],
) -> tuple[RecordedCollective, ...]:
    """Return the collectives of one forward, loss and backward."""
    split, loss_shared = part.split, sharded_loss() if part.heads else contextlib.nullcontext()
    recorder = CollectiveRecorder({mesh.get_group(name).group_name: name for name in mesh.mesh_dim_names or ()})
    output = None
    try:
        sequence = _shared_sequence(example.model, part, mesh, recorder)
        with sequence, loss_shared, watch_modules(example.model, recorder), recorder:
            with computing():
                output = example.model(*example.inputs, **example.keywords)
                loss = (example.loss or default_loss)(output, example.target)
            loss.backward()
    except MpsimError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if output is not None and part.heads:
            raise refused_loss(part.heads[0], reason) from error
        raise MpsimError(
            f"{type(example.model).__name__} does not run on one of {_ranks(split)}: {reason};"
            f" check that the number of heads divides by {split.tp * split.cp}, or adapt it in Example(shard=…)"
        ) from error
    return tuple(recorder.collectives)


@contextlib.contextmanager
def _shared_sequence(model: nn.Module, part: _Part, mesh: DeviceMesh, recorder: CollectiveRecorder) -> Iterator[None]:
    """Within this, attention is exchanged by ranks that share sequences, and what runs on parts needs no others."""
    if not part.lengths:
        yield
        return
    group = mesh.get_group("cp") if part.split.cp > 1 else None
    own = frozenset(length // part.split.cp for length in part.lengths)
    context = Context(part.context, part.peers._replace(group=group), own)
    unshared = refusing_unshared(model, part.split, part.lengths, lambda: recorder.inside, lambda: context.attending)
    with unshared, context.shared() if part.split.cp > 1 else contextlib.nullcontext():
        yield


def _ranks(split: Split) -> str:
    return f"{split.tp} tensor-parallel ranks" if split == Split(tp=split.tp) else f"the ranks of {split.text}"


def _strip(model: nn.Module, hooks: Mapping[nn.Module, tuple[set[int], set[int]]]) -> None:
    """Make a sharded model plain: local parameters, and no hooks but those it came with."""
    plain: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in plain:  # a tied parameter stays tied
                plain[id(parameter)] = _local(parameter)
            module._parameters[name] = plain[id(parameter)]
        before, after = hooks[module]
        _forget(module._forward_pre_hooks, before)
        _forget(module._forward_hooks, after)
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        if isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = module.weight.shape


def _local(parameter: nn.Parameter) -> nn.Parameter:
    value = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return nn.Parameter(value.detach().clone(), requires_grad=parameter.requires_grad)


def _forget(hooks: Any, keep: set[int]) -> None:
    for key in [key for key in hooks if key not in keep]:
        del hooks[key]
