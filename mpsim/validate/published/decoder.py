"""Decoder blocks counted kernel by kernel: what one rank computes, exchanges and keeps, at given rates.

Nothing is traced: published tables give sizes, and a block is a dozen kernels. What each takes is asked of a `Rates`,
a roofline or measured efficiencies. The ranks that share a layer all do the same, so they are folded into one, whose
layers have the exchanges that they wait for inside them (`Exchanges`); replicas and stages are replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mpsim.errors import MpsimError
from mpsim.workload.device_spec import DeviceSpec

__all__ = [
    "Decoder", "Exchanged", "Exchanges", "Latent", "Part", "Rates", "Roofline", "Shared", "Slowed", "block",
    "block_exchanges", "embedding", "end_exchanges", "head", "products_again_s",
]  # fmt: skip
_PHASES = ("forward", "backward")


class Latent(NamedTuple):
    """Multi-head latent attention (arXiv 2405.04434): widths that queries and keys are made of, and a head's parts.

    Attributes
    ----------
    queries, keys : int
        Of what queries, and keys with values, are made of.
    position, plain, value : int
        Of a head: what is turned by position, what is not, and its values.
    """

    queries: int
    keys: int
    position: int
    plain: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """The sizes of a language model.

    Attributes
    ----------
    layers, hidden, heads, kv_heads, ffn, vocabulary : int
    gated : bool
        Whether the MLP is gated (SwiGLU), which takes three matrices of `ffn`, or not, which takes two.
    rotary : bool
        Whether positions are turned into queries and keys.
    head_size : int
        Of one head; 0: ``hidden // heads``.
    experts, chosen, shared_ffn : int
        Of a mixture of experts: how many of size `ffn`, how many a token goes through, and the size of what all go
        through. 0 experts: a dense MLP.
    latent : Latent or None
        Of attention whose queries and keys go through narrow matrices; `head_size` is then the mean of its heads'.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    gated: bool = True
    rotary: bool = True
    head_size: int = 0
    experts: int = 0
    chosen: int = 0
    shared_ffn: int = 0
    latent: Latent | None = None

    def __post_init__(self) -> None:
        if (self.hidden % self.heads and not self.head_size) or self.heads % self.kv_heads:
            raise MpsimError(
                f"hidden {self.hidden} on {self.heads} heads, these on {self.kv_heads} of keys, do not divide"
            )

    @property
    def queries(self) -> int:
        """Width of all heads together."""
        return self.heads * (self.head_size or self.hidden // self.heads)

    @property
    def keys(self) -> int:
        """Width of all heads of keys."""
        return self.kv_heads * (self.head_size or self.hidden // self.heads)

    @property
    def matrices(self) -> int:
        """Matrices of an MLP."""
        return 3 if self.gated else 2

    @property
    def attention_parameters(self) -> int:
        """Parameters of a block that are no MLP's."""
        if self.latent:
            return sum(inner * columns for inner, columns, _ in self.projections) + 2 * self.hidden
        return self.hidden * (2 * self.queries + 2 * self.keys) + 2 * self.hidden

    @property
    def projections(self) -> tuple[tuple[int, int, bool], ...]:
        """The matrices around attention, the last behind it: rows, columns, and whether ranks share them."""
        if not self.latent:
            return ((self.hidden, self.queries + 2 * self.keys, True), (self.queries, self.hidden, True))
        queries, keys, position, plain, value = self.latent
        return (
            (self.hidden, queries, False), (queries, self.heads * (plain + position), True),
            (self.hidden, keys + position, False), (keys, self.heads * (plain + value), True),
            (self.heads * value, self.hidden, True),
        )  # fmt: skip

    @property
    def mlp_parameters(self) -> int:
        """Parameters of a block's MLP; of a mixture what every token goes through, the router among it."""
        if not self.experts:
            return self.matrices * self.hidden * self.ffn
        return self.matrices * self.hidden * self.shared_ffn + self.hidden * self.experts

    @property
    def expert_parameters(self) -> int:
        """Parameters of all experts of a block."""
        return self.experts * self.matrices * self.hidden * self.ffn


class Shared(NamedTuple):
    """How ranks share a layer, and what goes through it at once.

    Attributes
    ----------
    batch, sequence : int
        Samples in a micro-batch, and tokens in each over all ranks.
    tp, cp, ep : int
        Ranks that share each layer's matrices, its sequence, and its experts.
    sequence_parallel : bool
        Whether what is between the matrices is cut over the tp ranks too (Korthikanti et al., arXiv 2205.05198).
    context : str
        How attention reaches over cp ranks: ``all_to_all`` or ``all_gather``.
    overlaps : bool
        Whether what a cut sequence gathers once more, for the gradients of weights, is gathered behind computations.
    """

    batch: int
    sequence: int
    tp: int = 1
    cp: int = 1
    ep: int = 1
    sequence_parallel: bool = False
    context: str = "all_to_all"
    overlaps: bool = True

    @property
    def tokens(self) -> float:
        """Tokens that a rank's products see."""
        return self.batch * self.sequence / self.cp

    @property
    def between(self) -> float:
        """Tokens that a rank's norms and residuals see."""
        return self.tokens / (self.tp if self.sequence_parallel else 1)


class Rates(Protocol):
    """What kernels take."""

    @property
    def width(self) -> int:
        """Bytes of an activation."""

    def product(self, rows: float, inner: float, columns: float, role: str = "forward", count: float = 1) -> float:
        """Return seconds of products of matrices; `role`: ``forward``, ``inputs`` or ``weights``."""

    def attention(self, shared: Shared, decoder: Decoder, backward: bool = False) -> float:
        """Return seconds of a rank's attention, from queries and keys to what goes into the projection."""

    def passes(self, moved: float, kind: str = "") -> float:
        """Return seconds of a kernel that moves so many bytes.

        `kind` is ``norm``, ``turn`` (of positions), ``activation``, ``loss`` or, of all others, ``""``.
        """


# (kind of collective, axis, bytes) -> seconds; bytes of the whole tensor, of an all-to-all of what one rank has.
Exchanges = Callable[[str, str, float], float]


@dataclass(slots=True)
class Part:
    """What one rank does in a part of a model, at a micro-batch.

    Attributes
    ----------
    forward_s, inputs_s, weights_s : float
        Forward, and backward for inputs and for weights.
    exchanged_s, exchanged_back_s : float
        What it waits for ranks that share the layer, forward and backward.
    attention_s : float
        Of `forward_s`, the core of attention: what selective recomputation does again.
    saved : float
        Bytes kept for backward.
    transient : float
        The most bytes that backward holds beside them.
    parameters, expert_parameters : float
        A rank's, the experts' apart.
    """

    forward_s: float = 0.0
    inputs_s: float = 0.0
    weights_s: float = 0.0
    exchanged_s: float = 0.0
    exchanged_back_s: float = 0.0
    attention_s: float = 0.0
    saved: float = 0.0
    transient: float = 0.0
    parameters: float = 0.0
    expert_parameters: float = 0.0
    rates: Rates | None = field(default=None, repr=False)

    def product(self, rows: float, inner: float, columns: float, count: float = 1) -> None:
        """Add a linear layer: forward, and a product each for the gradients of its input and of its weights."""
        assert self.rates is not None
        self.forward_s += self.rates.product(rows, inner, columns, "forward", count)
        self.inputs_s += self.rates.product(rows, columns, inner, "inputs", count)
        self.weights_s += self.rates.product(columns, rows, inner, "weights", count)

    def passes(self, elements: float, forward: float, backward: float, kind: str = "") -> None:
        """Add a kernel over so many elements, read or written so many times in each direction."""
        assert self.rates is not None
        self.forward_s += self.rates.passes(forward * elements * self.rates.width, kind)
        if backward:
            self.inputs_s += self.rates.passes(backward * elements * self.rates.width, kind)


def block(decoder: Decoder, shared: Shared, rates: Rates, exchange: Exchanges) -> Part:
    """Return what one rank does in a block.

    A norm reads and writes, its gradient reads what came in and from behind, and writes; a residual reads two and
    writes one, its gradient adds two; a gated activation reads two of `ffn` and writes one.
    """
    made = Part(rates=rates)
    tp, hidden = shared.tp, decoder.hidden
    tokens, between = shared.tokens, shared.between
    made.passes(between * hidden, 2, 3, "norm")
    *ins, (out, _, _) = decoder.projections
    for rows, columns, is_cut in ins:
        made.product(tokens, rows, columns / tp if is_cut else columns)
    if decoder.rotary:
        made.passes(tokens * (decoder.queries + decoder.keys) / tp, 2, 2, "turn")
    made.attention_s = rates.attention(shared, decoder)
    made.forward_s += made.attention_s
    made.inputs_s += rates.attention(shared, decoder, backward=True)
    made.product(tokens, out / tp, hidden)
    made.passes(between * hidden, 3, 2)
    made.passes(between * hidden, 2, 3, "norm")
    _mlp(made, decoder, shared)
    made.passes(between * hidden, 3, 2)
    made.parameters = (decoder.attention_parameters + decoder.mlp_parameters) / tp
    made.expert_parameters = decoder.expert_parameters / (tp * shared.ep)
    if shared.cp > 1 and shared.context == "all_to_all":
        for width in (decoder.queries, decoder.keys, decoder.keys, decoder.queries):
            made.passes(tokens * width / tp, 4, 4)  # put in order before it is sent, and behind
    _wait(made, block_exchanges(decoder, shared, rates.width), exchange)
    # In: the residual stream. Kept: it and its norm twice, queries, keys, values, what attention gave, and the MLP's.
    stream = rates.width * between * hidden
    inner = _inner(decoder)
    made.saved = 4 * stream + rates.width * tokens * (2 * decoder.queries + 2 * decoder.keys) / tp
    made.saved += rates.width * tokens * inner * decoder.matrices / tp
    # Gradients of what goes into the activation and of what comes out.
    made.transient = rates.width * tokens * inner * decoder.matrices / tp
    return made


def _inner(decoder: Decoder) -> float:
    """Return the width of the MLPs that a token goes through."""
    return decoder.chosen * decoder.ffn + decoder.shared_ffn if decoder.experts else decoder.ffn


def _mlp(made: Part, decoder: Decoder, shared: Shared) -> None:
    tokens, hidden, tp = shared.tokens, decoder.hidden, shared.tp
    ups = decoder.matrices - 1
    if decoder.ffn and not decoder.experts:
        made.product(tokens, hidden, ups * decoder.ffn / tp)
        made.passes(tokens * decoder.ffn / tp, ups + 1, 2 * ups + 1, "activation")
        made.product(tokens, decoder.ffn / tp, hidden)
        return
    if decoder.shared_ffn:
        made.product(tokens, hidden, ups * decoder.shared_ffn / tp)
        made.product(tokens, decoder.shared_ffn / tp, hidden)
    made.product(tokens, hidden, decoder.experts)
    # A rank's experts get as many tokens as it has itself, taken to be spread evenly.
    own = decoder.experts / shared.ep
    rows = tokens * decoder.chosen / own
    made.product(rows, hidden, ups * decoder.ffn / tp, own)
    made.passes(tokens * decoder.chosen * decoder.ffn / tp, ups + 1, 2 * ups + 1)
    made.product(rows, decoder.ffn / tp, hidden, own)
    for _ in range(2):  # tokens are put in the order of their experts, and back
        made.passes(tokens * decoder.chosen * hidden, 2, 2)


class Exchanged(NamedTuple):
    """A collective that ranks make while a part of a model runs.

    Attributes
    ----------
    phase : str
        ``forward`` or ``backward``.
    kind, axis : str
    bytes : float
        Of the whole tensor; of an all-to-all of what one rank has.
    again : bool
        Whether it gathers once more what a cut sequence gathered before, for the gradients of weights.
    """

    phase: str
    kind: str
    axis: str
    bytes: float
    again: bool = False


def block_exchanges(decoder: Decoder, shared: Shared, width: int) -> list[Exchanged]:
    """Return what the ranks that share a block exchange, at so many bytes an activation.

    Examples
    --------
    >>> sizes = Decoder(layers=1, hidden=64, heads=4, kv_heads=4, ffn=256, vocabulary=1)
    >>> [(one.phase, one.kind) for one in block_exchanges(sizes, Shared(1, 8, tp=2), 2)]
    [('forward', 'all_reduce'), ('forward', 'all_reduce'), ('backward', 'all_reduce'), ('backward', 'all_reduce')]
    """
    whole, found = width * shared.tokens * decoder.hidden, []
    kinds = ("all_gather", "reduce_scatter") if shared.sequence_parallel else ("all_reduce",)
    if shared.tp > 1:
        found += [Exchanged(phase, kind, "tp", whole) for phase in _PHASES for _ in range(2) for kind in kinds]
        if shared.sequence_parallel and not shared.overlaps:
            found += 2 * [Exchanged("backward", "all_gather", "tp", whole, again=True)]
    if shared.cp > 1:
        found += _context(decoder, shared, whole / decoder.hidden / shared.tp)
    if decoder.experts and shared.ep > 1:
        found += [Exchanged(phase, "all_to_all", "ep", whole * decoder.chosen) for phase in _PHASES for _ in range(2)]
    return found


def _context(decoder: Decoder, shared: Shared, part: float) -> list[Exchanged]:
    """Return what attention over a cut sequence exchanges, `part` being the bytes of a column of a rank's tokens."""
    if shared.context == "all_to_all":
        each = (decoder.queries, decoder.keys, decoder.keys, decoder.queries)
        return [Exchanged(phase, "all_to_all", "cp", part * width) for phase in _PHASES for width in each]
    keys = 2 * part * decoder.keys * shared.cp
    kinds = (("forward", "all_gather"), ("backward", "all_gather"), ("backward", "reduce_scatter"))
    return [Exchanged(phase, kind, "cp", keys) for phase, kind in kinds]


def end_exchanges(decoder: Decoder, shared: Shared, width: int, *, last: bool) -> list[Exchanged]:
    """Return what the ranks that share the embedding, or the `last` norm and the head, exchange."""
    if shared.tp == 1:
        return []
    whole, cut = width * shared.tokens * decoder.hidden, shared.sequence_parallel
    gathered = [("all_gather", whole)] if cut else []
    summed = [("reduce_scatter" if cut else "all_reduce", whole)]
    if not last:
        forward, backward = summed, gathered
    else:
        # The loss of parts of a vocabulary: the greatest logit of each token, then sums, in fp32.
        forward, backward = gathered + 2 * [("all_reduce", 4 * shared.tokens)], summed
    found = [Exchanged("forward", kind, "tp", size) for kind, size in forward]
    found += [Exchanged("backward", kind, "tp", size) for kind, size in backward]
    if last and cut and not shared.overlaps:
        found.append(Exchanged("backward", "all_gather", "tp", whole, again=True))
    return found


def _wait(made: Part, found: Sequence[Exchanged], exchange: Exchanges) -> None:
    """Add what a part waits for."""
    made.exchanged_s = sum((exchange(one.kind, one.axis, one.bytes) for one in found if one.phase == "forward"), 0.0)
    made.exchanged_back_s = sum(
        (exchange(one.kind, one.axis, one.bytes) for one in found if one.phase == "backward"), 0.0
    )


def products_again_s(decoder: Decoder, shared: Shared, part: Part, rates: Rates) -> float:
    """Return what the backward of a block takes longer where every second product is made again.

    These are of keys, of the projection, and one of the two that go into the activation; all that lies between
    products is made again too.
    """
    tp, tokens = shared.tp, shared.tokens
    projection = (decoder.queries / tp, decoder.hidden)
    shapes = ((decoder.hidden, decoder.keys / tp), projection, (decoder.hidden, decoder.ffn / tp))
    again_s = sum(rates.product(tokens, inner, columns) for inner, columns in shapes)
    products = (
        (decoder.hidden, (decoder.queries + 2 * decoder.keys) / tp), projection,
        (decoder.hidden, 2 * decoder.ffn / tp), (decoder.ffn / tp, decoder.hidden),
    )  # fmt: skip
    between_s = part.forward_s - part.attention_s - sum(rates.product(tokens, k, n) for k, n in products)
    return again_s + max(0.0, between_s)


def embedding(decoder: Decoder, shared: Shared, rates: Rates, exchange: Exchanges) -> Part:
    """Return what one rank does before the blocks: it looks up its part of the vocabulary, and all parts are added."""
    made = Part(rates=rates)
    made.passes(shared.between * decoder.hidden, 2, 2)
    _wait(made, end_exchanges(decoder, shared, rates.width, last=False), exchange)
    made.parameters = decoder.vocabulary * decoder.hidden / shared.tp
    return made


def head(decoder: Decoder, shared: Shared, rates: Rates, exchange: Exchanges) -> Part:
    """Return what one rank does behind the blocks: the last norm, logits, and their loss."""
    made = Part(rates=rates)
    logits = shared.tokens * decoder.vocabulary / shared.tp
    made.passes(shared.between * decoder.hidden, 2, 3, "norm")
    made.product(shared.tokens, decoder.hidden, decoder.vocabulary / shared.tp)
    made.passes(logits, 2, 2, "loss")
    made.parameters = decoder.vocabulary * decoder.hidden / shared.tp
    made.saved = 2 * rates.width * shared.between * decoder.hidden + rates.width * logits
    made.transient = rates.width * logits
    _wait(made, end_exchanges(decoder, shared, rates.width, last=True), exchange)
    return made


@dataclass(frozen=True, slots=True, eq=False)
class Roofline:
    """Kernels at the roofline of a device.

    Attributes
    ----------
    spec : DeviceSpec
    dtype : str
        Of products.
    fused : bool
        Whether attention is one kernel that keeps no scores; otherwise softmax and dropout go over them.
    linear : str
        The type in which linear layers multiply, where it is another.
    apart : mapping of str to float
        Of kinds of passes, how many times as many bytes they move as in one kernel each.
    """

    spec: DeviceSpec
    dtype: str
    fused: bool = True
    linear: str = ""
    width: int = 2
    apart: Mapping[str, float] = field(default_factory=dict)

    def product(self, rows: float, inner: float, columns: float, role: str = "forward", count: float = 1) -> float:
        """Return the roofline of products."""
        flops = 2 * count * rows * inner * columns
        moved = count * (rows * inner + inner * columns + rows * columns) * self.width
        return self.spec.seconds(flops, moved, self.linear or self.dtype)

    def attention(self, shared: Shared, decoder: Decoder, backward: bool = False) -> float:
        """Return the roofline of attention: fused over the lower triangle, backward 2.5 times; else over all."""
        heads = decoder.heads / shared.tp / shared.cp
        pairs = shared.batch * heads * shared.sequence**2
        flops = 4 * pairs * decoder.queries / decoder.heads
        if self.fused:
            moved = 4 * shared.tokens * decoder.queries / shared.tp * self.width
            return self.spec.seconds(flops / 2 * (2.5 if backward else 1), moved * (2 if backward else 1), self.dtype)
        times = 2 if backward else 1
        # Softmax reads and writes; dropout does too, and has a mask of a byte.
        seconds = self.passes(2 * times * pairs * self.width) + self.passes(2.5 * pairs * self.width)
        return seconds + 2 * self.spec.seconds(times * flops / 2, times * pairs * self.width, self.dtype)

    def passes(self, moved: float, kind: str = "") -> float:
        """Return the roofline of a kernel that moves memory."""
        return self.spec.seconds(0, moved * self.apart.get(kind, 1.0), self.dtype)


@dataclass(frozen=True, slots=True)
class Slowed:
    """Rates at which everything takes as long as at others, over a speed."""

    rates: Rates
    speed: float

    @property
    def width(self) -> int:
        """Bytes of an activation."""
        return self.rates.width

    def product(self, rows: float, inner: float, columns: float, role: str = "forward", count: float = 1) -> float:
        """Return seconds of products."""
        return self.rates.product(rows, inner, columns, role, count) / self.speed

    def attention(self, shared: Shared, decoder: Decoder, backward: bool = False) -> float:
        """Return seconds of attention."""
        return self.rates.attention(shared, decoder, backward) / self.speed

    def passes(self, moved: float, kind: str = "") -> float:
        """Return seconds of a kernel that moves memory."""
        return self.rates.passes(moved, kind) / self.speed
