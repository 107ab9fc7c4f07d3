"""A decoder as a workload with costs for every way in which ranks share its layers, and every micro-batch.

What the ranks that share a layer exchange stands in it as collectives, which a replay lays on the links that they have:
so plans of all degrees can be ranked, and not only the one that a row of a table has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from mpsim.validate.published.decoder import (
    Decoder,
    Part,
    Rates,
    Shared,
    Slowed,
    block,
    block_exchanges,
    embedding,
    end_exchanges,
    head,
    products_again_s,
)
from mpsim.validate.published.folding import State, layer
from mpsim.workload.layers import Attention, Cost, Layer, Shard, ShardCollective
from mpsim.workload.model import Precision, Workload
from mpsim.workload.split import WHOLE, Split, axes_of
from mpsim.workload.tensors import Tensor, TensorShard

__all__ = ["Point", "Training", "block_of", "head_of", "workload_of"]

Point = tuple[int, Split]
"""A micro-batch, and a split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a model is trained, whatever the plan.

    Attributes
    ----------
    decoder : Decoder
    sequence : int
        Tokens of a sample.
    device : str
        Of the catalog.
    rates, plain : Rates
        What kernels of blocks, and those of the ends and of the update, take at a speed of 1.
    state : State
        What is kept of a block's parameter.
    ends : State
        Likewise of one of the embedding's and the head's.
    update_bytes : float
        That an update moves for each parameter.
    context : str
        How attention reaches over ranks that share a sequence, see `Shared`.
    overlaps : bool
        Whether what a cut sequence gathers once more is gathered behind computations, see `Shared`.
    beside : tuple of str
        The axes whose exchanges go on beside the computation of their layer.
    keeps_scores : bool
        Whether attention keeps its scores for backward.
    logit_bytes : int
        That the loss keeps of each logit beside the product's own, and as many for a while in its backward.
    again : str
        ``op`` where the backward of a block makes every second product again, which no plan says; else ``""``.
    """

    decoder: Decoder
    sequence: int
    device: str
    rates: Rates
    plain: Rates
    state: State
    ends: State
    update_bytes: float
    context: str = "all_gather"
    overlaps: bool = True
    beside: tuple[str, ...] = ()
    keeps_scores: bool = False
    logit_bytes: int = 0
    again: str = ""

    def shared(self, microbatch: int, split: Split) -> Shared:
        """Return how the ranks of a split share a layer at a micro-batch."""
        return Shared(
            microbatch, self.sequence, split.tp, split.cp, split.ep, sequence_parallel=split.sequence,
            context=self.context, overlaps=self.overlaps,
        )  # fmt: skip

    def scores(self, shared: Shared) -> int:
        """Return the bytes of attention scores that a block keeps."""
        if not self.keeps_scores:
            return 0
        heads = self.decoder.heads / shared.tp / shared.cp
        return round(_SCORE_BYTES * shared.batch * heads * shared.sequence**2)


# Of softmax two bytes a score, of dropout two and a mask (Korthikanti et al., arXiv 2205.05198, section 4.1).
_SCORE_BYTES = 5


def workload_of(training: Training, points: Sequence[Point], speed: float, name: str = "decoder") -> Workload:
    """Return a model as a workload that has costs at these points.

    Parameters
    ----------
    training : Training
    points : sequence of (int, Split)
        Micro-batches and splits; the first micro-batch is the reference.
    speed : float
        At which kernels run, beside their rates.
    name : str
        Of the workload.
    """
    decoder = training.decoder
    rates, plain = Slowed(training.rates, speed), Slowed(training.plain, speed)
    one = partial(_layer, training, points, plain)
    first = one("embedding", [embedding(decoder, shared, plain, _free) for shared in _shared(training, points)])
    blocks = one("block0", [block_of(training, shared, rates) for shared in _shared(training, points)])
    last = one("head", [head_of(training, shared, plain) for shared in _shared(training, points)])
    layers = (first, *(_named(blocks, f"block{i}") for i in range(decoder.layers)), last)
    reference = points[0][0]
    state = training.state
    precision = Precision(
        compute=state.parameter, parameters=state.parameter, gradients=state.gradient, master=state.master
    )
    return Workload(
        name=name, layers=layers, tensors=tuple(_tensors(training, layers, points, reference)), microbatch=reference,
        device=training.device, precision=precision,
    )  # fmt: skip


def _free(kind: str, axis: str, bytes_: float) -> float:
    """Charge no exchange: it is replayed."""
    return 0.0


def _shared(training: Training, points: Sequence[Point]) -> list[Shared]:
    return [training.shared(*point) for point in points]


def block_of(training: Training, shared: Shared, rates: Rates) -> Part:
    """Return what one rank does in a block."""
    part = block(training.decoder, shared, rates, _free)
    if training.again == "op":
        part.inputs_s += products_again_s(training.decoder, shared, part, rates)
        part.saved = _kept_of_products(training.decoder, shared, rates)
    return part


def head_of(training: Training, shared: Shared, plain: Rates) -> Part:
    """Return what one rank does behind the blocks."""
    part = head(training.decoder, shared, plain, _free)
    more = training.logit_bytes * shared.tokens * training.decoder.vocabulary / shared.tp
    part.saved += more
    part.transient += more
    return part


def _kept_of_products(decoder: Decoder, shared: Shared, rates: Rates) -> float:
    """Return what a block keeps then: what came in and went out, queries, values, attention, half of what is gated."""
    inner = (2 * decoder.queries + decoder.keys + decoder.ffn) / shared.tp
    return rates.width * (2 * shared.between * decoder.hidden + shared.tokens * inner)


def _layer(training: Training, points: Sequence[Point], plain: Rates, name: str, parts: Sequence[Part]) -> Layer:
    """Return a layer of what one rank does at each point."""
    is_block = name not in ("embedding", "head")
    state = training.state if is_block else training.ends

    def update_s(count: float) -> float:
        return plain.passes(training.update_bytes * count)

    costs: list[Cost] = []
    shards: dict[Split, Shard] = {}
    for (microbatch, split), part in zip(points, parts, strict=True):
        made = layer(name, part, state, update_s=update_s)
        shards.setdefault(split, _shard(made.shards[0], split, part, state))
        shared = training.shared(microbatch, split)
        found = _exchanges(training, shared, name)
        costs.append(_cost(made.costs[0], microbatch, split, training.scores(shared) if is_block else 0, found))
    return Layer(
        name=name, kind="decoder block" if is_block else name, shards=tuple(shards.values()), costs=tuple(costs)
    )


def _cost(cost: Cost, microbatch: int, split: Split, scores: int, found: Iterable[ShardCollective]) -> Cost:
    core = cost.attention and Attention(forward_fraction=cost.attention.forward_fraction, saved_bytes=scores)
    return replace(
        cost, microbatch=microbatch, saved_bytes=cost.saved_bytes + scores, attention=core, collectives=tuple(found),
        **axes_of(split),
    )  # fmt: skip


def _shard(made: Shard, split: Split, part: Part, state: State) -> Shard:
    """Return a shard whose experts are apart: they are reduced among those that hold the same."""
    parameter, gradient = made.parameters[0], made.gradients[0]
    experts = round(part.expert_parameters)
    parameters = [replace(parameter, shape=(parameter.shape[0] - experts,))]
    each = gradient.bytes // parameter.shape[0]
    gradients = [replace(gradient, bytes=each * parameters[0].shape[0])]
    if experts:
        name = f"{parameter.name}.experts"
        parameters.append(replace(parameter, name=name, shape=(experts,)))
        gradients.append(replace(gradient, parameter=name, bytes=each * experts, expert=True))
    return replace(made, parameters=tuple(parameters), gradients=tuple(gradients), **axes_of(split))


def _exchanges(training: Training, shared: Shared, name: str) -> list[ShardCollective]:
    """Return what ranks exchange in a layer, and when; what is alike in a pass at once, which saves a replay tasks."""
    decoder, width = training.decoder, training.rates.width
    is_end = name in ("embedding", "head")
    found = end_exchanges(decoder, shared, width, last=name == "head") if is_end else None
    beside = () if is_end else training.beside
    together: dict[tuple[str, str, str, str], float] = {}
    for one in found if found is not None else block_exchanges(decoder, shared, width):
        default = "before" if one.kind == "all_gather" else "behind"
        key = (one.kind, one.phase, one.axis, "beside" if one.axis in beside and not one.again else default)
        together[key] = together.get(key, 0.0) + one.bytes
    return [
        ShardCollective(kind=kind, bytes=round(size), phase=phase, axis=axis, when=when)
        for (kind, phase, axis, when), size in together.items()
    ]


def _named(made: Layer, name: str) -> Layer:
    """Return a layer with another name, its parameters' too."""
    old = made.name

    def renamed(shard: Shard) -> Shard:
        return replace(
            shard,
            parameters=tuple(replace(one, name=one.name.replace(old, name)) for one in shard.parameters),
            gradients=tuple(replace(one, parameter=one.parameter.replace(old, name)) for one in shard.gradients),
        )

    return made if old == name else replace(made, name=name, shards=tuple(map(renamed, made.shards)))


def _tensors(training: Training, layers: Sequence[Layer], points: Sequence[Point], reference: int) -> Iterable[Tensor]:
    """Yield what goes from layer to layer: of a rank its part of the sequence, and one of tp parts of what that is."""
    hidden, tokens = training.decoder.hidden, training.sequence
    splits = sorted({split for _, split in points} - {WHOLE})
    shards = tuple(
        TensorShard(**axes_of(split), shape=(reference, tokens // split.cp // split.tp, hidden)) for split in splits
    )
    yield Tensor(name="input", producer="", consumers=(layers[0].name,), shape=(reference, 0), role="input")
    for producer, consumer in pairwise(layers):
        yield Tensor(
            name=f"{producer.name}.output", producer=producer.name, consumers=(consumer.name,),
            shape=(reference, tokens, hidden), dtype="bfloat16", saved_by=consumer.name, shards=shards,
        )  # fmt: skip
    yield Tensor(name="loss", producer=layers[-1].name, shape=(reference, 1), role="output")
