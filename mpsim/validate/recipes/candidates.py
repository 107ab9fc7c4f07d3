"""Plans that might have been chosen in a recipe's place, and about what each takes: the order in which to replay them.

A candidate's stages are as even as its authors lay them. What is estimated is no prediction: what is reported of a
plan was replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import NamedTuple

from mpsim.plan.model import Plan
from mpsim.validate.published.decoder import (
    Exchanged,
    Part,
    Slowed,
    block_exchanges,
    embedding,
    end_exchanges,
)
from mpsim.validate.published.folding import plan_of
from mpsim.validate.recipes.recipe import Recipe, shared_among
from mpsim.validate.recipes.shares import block_of, head_of
from mpsim.workload.split import Split
from mpsim.workload.tensors import DTYPE_BYTES

__all__ = ["Candidate", "Estimate", "Estimator", "candidate_of", "candidates", "plan_as"]

_POWERS = (1, 2, 4, 8, 16, 32, 64)
_MOST_SHARED = 8  # ranks that share weights, or a sequence
_MOST_MICROBATCH = 16


class Candidate(NamedTuple):
    """A plan in few words.

    Attributes
    ----------
    dp, pp : int
    split : Split
    microbatch, microbatches : int
        Samples in a micro-batch, and micro-batches of a replica.
    chunks : int
        Stages on each pipeline rank.
    zero : int
    recompute : str
        As `Sharding` has it.
    """

    dp: int
    pp: int
    split: Split
    microbatch: int
    microbatches: int
    chunks: int
    zero: int
    recompute: str

    @property
    def stages(self) -> int:
        """In all."""
        return self.pp * self.chunks

    @property
    def replicas(self) -> int:
        """Ranks that hold the same layers but for experts."""
        return self.dp * self.split.cp


class Estimate(NamedTuple):
    """About what a candidate takes: seconds of a step, and bytes of its fullest device."""

    step_s: float
    bytes: float


def candidate_of(recipe: Recipe) -> Candidate:
    """Return a recipe's own plan as a candidate."""
    plan = recipe.plan
    return Candidate(
        plan.dp, plan.pp, plan.split, recipe.microbatch, plan.microbatches, max(plan.chunks, 1), plan.sharding.zero,
        plan.sharding.recompute,
    )  # fmt: skip


def candidates(recipe: Recipe) -> Iterator[Candidate]:
    """Yield the plans of as many devices and as large a batch that the recipe's framework runs, its own among them."""
    decoder, choices = recipe.training.decoder, recipe.choices
    own = candidate_of(recipe)
    yield own
    sizes = sorted({*(size for size in _POWERS if size <= _MOST_MICROBATCH), own.microbatch})
    for split, pp in product(_splits(recipe), range(1, decoder.layers + 1)):
        dp, rest = divmod(recipe.devices, split.tp * split.cp * pp)
        if rest or not dp or (dp * split.cp) % split.ep:
            continue
        for size, chunks in product(sizes, _chunks(decoder.layers, pp)):
            microbatches, left = divmod(recipe.plan.batch, dp * size)
            if left or not microbatches or (chunks > 1 and microbatches % pp):
                continue
            zeros = [zero for zero in choices.zero if zero < 3 or pp == 1 or choices.keeps]
            for zero, again in product(zeros if dp * split.cp > 1 else [0], choices.recompute):
                found = Candidate(dp, pp, split, size, microbatches, chunks, zero, again)
                if found != own:
                    yield found


def _splits(recipe: Recipe) -> Iterator[Split]:
    """Yield the splits that a decoder has: of ranks that share weights each has a head of keys."""
    decoder, choices = recipe.training.decoder, recipe.choices
    tps = [tp for tp in _POWERS if tp <= _MOST_SHARED and decoder.kv_heads % tp == 0]
    cps = [cp for cp in _POWERS if cp <= (_MOST_SHARED if choices.context else 1)]
    eps = [ep for ep in _POWERS if decoder.experts % ep == 0] if decoder.experts else [1]
    for tp, cp, ep in product(tps, cps, eps):
        if recipe.training.sequence % (tp * cp) == 0:
            yield Split(tp, cp, ep, choices.sequence and tp > 1)


def _chunks(layers: int, pp: int) -> list[int]:
    """Return how many stages a rank may have: with blocks divided evenly, or with both ends counted as one each."""
    most = layers // pp if pp > 1 else 1
    return [n for n in range(1, most + 1) if layers % (pp * n) == 0 or (layers + 2) % (pp * n) == 0]


def plan_as(recipe: Recipe, candidate: Candidate) -> Plan:
    """Return a candidate as a plan, with all that it does not say as the recipe has it."""
    own = recipe.plan
    plan = plan_of(
        dp=candidate.replicas, pp=candidate.pp, microbatches=candidate.microbatches, chunks=candidate.chunks,
        zero=candidate.zero, layers=recipe.training.decoder.layers, first=1,
        keeps=recipe.choices.keeps and candidate.pp > 1, recompute=candidate.recompute, runtime=own.runtime,
    )  # fmt: skip
    plan = replace(plan, bucket_bytes=own.bucket_bytes, first_bucket_bytes=own.first_bucket_bytes)
    tp, cp, ep, cut = candidate.split
    return replace(shared_among(plan, candidate.dp, cp, tp, ep, sequence=cut), batch=own.batch)


class _Takes(NamedTuple):
    """What one rank takes in a part of a model: seconds with what it waits for, bytes that it keeps, parameters."""

    forward_s: float
    backward_s: float
    attention_s: float
    saved: float
    core: float
    stream: float
    parameters: float
    experts: float


@dataclass(slots=True)
class Estimator:
    """What candidates of a recipe take, about.

    Attributes
    ----------
    recipe : Recipe
    speed : float
        Of kernels.
    """

    recipe: Recipe
    speed: float
    _known: dict[tuple[int, Split], tuple[_Takes, _Takes, _Takes]] = field(default_factory=dict)

    def of(self, candidate: Candidate) -> Estimate:
        """Return about what a candidate takes."""
        first, each, last = self._parts(candidate.microbatch, candidate.split)
        again_s, kept = self._again(candidate, each)
        work_s = each.forward_s + each.backward_s + again_s
        blocks = self._blocks(candidate)
        ranks = [(blocks[0], (first,)), (blocks[1], ()), (blocks[2], (last,))]
        if candidate.pp == 1:
            ranks = [(self.recipe.training.decoder.layers, (first, last))]
        busiest_s = max(n * work_s + sum(one.forward_s + one.backward_s for one in ends) for n, ends in ranks)
        step_s = candidate.microbatches * busiest_s + (candidate.pp - 1) * blocks[1] * work_s / candidate.chunks
        shares = [(n * each.parameters + sum(one.parameters for one in ends), n * each.experts) for n, ends in ranks]
        parameters, experts = max(shares)
        backward_s = blocks[1] * each.backward_s
        step_s += self._reduced_s(candidate, parameters, experts, step_s, backward_s)
        return Estimate(step_s, self._bytes(candidate, parameters, experts, blocks[0] * kept, (each, last)))

    def unevenness(self, candidate: Candidate) -> float:
        """Return how much longer the busiest pipeline rank works than a middle one, as a part of that."""
        first, each, last = self._parts(candidate.microbatch, candidate.split)
        again_s, _ = self._again(candidate, each)
        begins, middle, ends = self._blocks(candidate)
        block_s = each.forward_s + each.backward_s + again_s
        works = [n * block_s + end.forward_s + end.backward_s for n, end in ((begins, first), (ends, last))]
        return max(0.0, max(works) / (middle * block_s) - 1) if candidate.pp > 1 else 0.0

    def _parts(self, microbatch: int, split: Split) -> tuple[_Takes, _Takes, _Takes]:
        key = (microbatch, split)
        if key not in self._known:
            training = self.recipe.training
            shared = training.shared(microbatch, split)
            rates, plain = Slowed(training.rates, self.speed), Slowed(training.plain, self.speed)
            decoder, width = training.decoder, training.rates.width
            takes = partial(self._takes, split, width * shared.between * decoder.hidden)
            ends = partial(end_exchanges, decoder, shared, width)
            cores = training.scores(shared)
            self._known[key] = (
                takes(embedding(decoder, shared, plain, _free), ends(last=False), ()),
                takes(
                    block_of(training, shared, rates), block_exchanges(decoder, shared, width), training.beside, cores
                ),
                takes(head_of(training, shared, plain), ends(last=True), ()),
            )
        return self._known[key]

    def _takes(
        self,
        split: Split,
        stream: float,
        part: Part,
        found: list[Exchanged],
        beside: tuple[str, ...],
        core: float = 0.0,
    ) -> _Takes:
        exchange = self.recipe.machine.exchanges({"tp": split.tp, "cp": split.cp, "ep": split.ep})
        waits = {(phase, hidden): 0.0 for phase in ("forward", "backward") for hidden in (True, False)}
        for one in found:
            waits[one.phase, one.axis in beside and not one.again] += exchange(one.kind, one.axis, one.bytes)
        forward_s = max(part.forward_s, waits["forward", True]) + waits["forward", False]
        backward_s = max(part.inputs_s + part.weights_s, waits["backward", True]) + waits["backward", False]
        return _Takes(
            forward_s, backward_s, part.attention_s, part.saved + core, core, stream, part.parameters,
            part.expert_parameters,
        )  # fmt: skip

    def _blocks(self, candidate: Candidate) -> tuple[int, int, int]:
        """Return the blocks of the first, a middle and the last pipeline rank."""
        layers, stages = self.recipe.training.decoder.layers, candidate.stages
        if layers % stages == 0 or (layers + 2) % stages:
            return (layers // candidate.pp,) * 3
        each = (layers + 2) // candidate.pp
        return each - 1, each, each - 1

    def _again(self, candidate: Candidate, each: _Takes) -> tuple[float, float]:
        """Return what a block takes longer for what is computed again, and the bytes that it keeps, in the mean."""
        what = candidate.recompute
        if not what:
            return 0.0, each.saved
        if what == "selective":
            return each.attention_s, each.saved - each.core
        layers = self.recipe.training.decoder.layers
        part = 1.0 if what == "block*" else len(what.split(",")) / layers
        return part * each.forward_s, part * each.stream + (1 - part) * each.saved

    def _reduced_s(
        self, candidate: Candidate, parameters: float, experts: float, step_s: float, backward_s: float
    ) -> float:
        """Return what replicas and the update add to a step."""
        training, replicas = self.recipe.training, candidate.replicas
        plain = Slowed(training.plain, self.speed)
        update_s = plain.passes(training.update_bytes * (parameters + experts) / (replicas if candidate.zero else 1))
        if replicas == 1:
            return update_s
        exchange = self.recipe.machine.exchanges({"tp": candidate.split.tp, "cp": replicas})
        gradient, parameter = (DTYPE_BYTES[kind] for kind in (training.state.gradient, training.state.parameter))
        reduced = gradient * parameters
        if candidate.zero == 3:
            once_s = exchange("all_gather", "cp", parameter * parameters)
            passes = 1 if self.recipe.choices.keeps and candidate.pp > 1 else 2 * candidate.microbatches
            all_s = passes * once_s + candidate.microbatches * exchange("reduce_scatter", "cp", reduced)
            return update_s + max(0.0, all_s - step_s)
        waits_s = exchange("reduce_scatter" if candidate.zero else "all_reduce", "cp", reduced)
        if self.recipe.plan.bucket_bytes < reduced:  # beside the last backward
            waits_s = max(0.0, waits_s - backward_s)
        return update_s + waits_s + (exchange("all_gather", "cp", parameter * parameters) if candidate.zero else 0.0)

    def _bytes(
        self, candidate: Candidate, parameters: float, experts: float, kept: float, parts: tuple[_Takes, _Takes]
    ) -> float:
        state = self.recipe.training.state
        parameter, gradient = DTYPE_BYTES[state.parameter], DTYPE_BYTES[state.gradient]
        optimizer = state.optimizer + (DTYPE_BYTES[state.master] if state.master else 0)
        shares = candidate.replicas if candidate.zero else 1
        whole = parameter + gradient + optimizer / shares if candidate.zero < 3 else 0.0
        held = (whole or (parameter + gradient + optimizer) / shares) * (parameters + experts)
        if candidate.zero == 3:  # two blocks are gathered at a time, or all of a pipeline rank's
            blocks = parameters if self.recipe.choices.keeps and candidate.pp > 1 else 2 * parts[0].parameters
            held += parameter * blocks + 2 * gradient * parts[0].parameters
        pp, chunks, count = candidate.pp, candidate.chunks, candidate.microbatches
        under_way = min(count, pp if chunks == 1 else (pp * (chunks + 1) - 1) / chunks)
        each, last = parts
        inside = each.saved if candidate.recompute else 0.0
        return held + under_way * kept + inside + (2 * last.saved if pp == 1 else 0.0)


def _free(kind: str, axis: str, bytes_: float) -> float:
    return 0.0
