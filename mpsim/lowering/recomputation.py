"""Which layers of a plan run their forward again before their backward, and what they keep instead of all it makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from mpsim.errors import MpsimError, did_you_mean
from mpsim.lowering.crossings import tensor_bytes
from mpsim.plan.recompute import EXCEPT_LAST, WHAT, Recompute, parse_offload
from mpsim.workload.costs import median_s
from mpsim.workload.model import Cost, Fidelity, Tensor, Workload
from mpsim.workload.split import Split

__all__ = [
    "Recomputed",
    "again_s",
    "check_cores",
    "fraction_again",
    "offloaded_layers",
    "recomputed",
    "recomputed_layers",
    "watched_fractions",
]


class Recomputed(NamedTuple):
    """What a stage computes again, on one tensor-parallel rank.

    Attributes
    ----------
    layers : frozenset of int
        Of the workload.
    partly : bool
        Whether it is their attention core alone.
    whole : bool
        Whether all of them run again before the first backward, and not each before its own.
    kept : tuple of int
        Of each layer of the stage the bytes that stay from its forward to its backward.
    again : tuple of int
        Of each the bytes that its second forward makes, which stay to its backward.
    """

    layers: frozenset[int]
    partly: bool
    whole: bool
    kept: tuple[int, ...]
    again: tuple[int, ...]


def recomputed_layers(
    workload: Workload, costs: Sequence[Cost], what: Recompute, word: str = "recompute"
) -> frozenset[int]:
    """Return the layers that are computed again: of those that are meant all that have a backward.

    Raises
    ------
    MpsimError
        A name, pattern or number that is no layer's.

    Examples
    --------
    >>> from mpsim.plan.recompute import parse_recompute
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in ("h.0", "h.1", "head")]
    >>> work = Workload.chain("three", layers)
    >>> costs = [layer.costs[0] for layer in layers]
    >>> sorted(recomputed_layers(work, costs, parse_recompute("h.*")))
    [0, 1]
    """
    if what.what == "selective":
        found = frozenset(i for i, cost in enumerate(costs) if cost.attention is not None)
        if not found:
            raise MpsimError(
                f"recompute=selective computes attention again, no layer of {workload.name!r} says what its attention"
                " takes: trace it again if it has any, or use full, or names of layers"
            )
        return found
    named = [i for one in what.layers for i in _named(workload, one, word)]
    meant = named if what.what == "layers" else range(len(costs))
    return frozenset(i for i in meant if what.what and _has_backward(costs[i]))


def check_cores(workload: Workload, costs: Sequence[Cost], kind: str, own: Sequence[Cost], what: Recompute) -> None:
    """Refuse costs of a type of device that do not say what attention takes which is computed again.

    Raises
    ------
    MpsimError
        Names the layer and the type.
    """
    for layer, cost, here in zip(workload.layers, costs, own, strict=True):
        if what.what == "selective" and cost.attention is not None and here.attention is None:
            raise MpsimError(
                f"recompute=selective computes attention again, the costs of layer {layer.name!r} on {kind} do not say"
                " what it takes: trace it there again, or use full, or names of layers"
            )


def offloaded_layers(workload: Workload, costs: Sequence[Cost], text: str) -> frozenset[int]:
    """Return the layers whose activations go to the host: of those that are meant all that have a backward.

    Raises
    ------
    MpsimError
        A name, pattern or number that is no layer's.
    """
    return recomputed_layers(workload, costs, parse_offload(text), "offload") if text else frozenset()


def recomputed(
    workload: Workload, layers: range, costs: Sequence[Cost], microbatch: int, split: Split, what: Recompute
) -> Recomputed | None:
    """Return what a stage computes again; None where it is nothing. `costs` are those of all layers."""
    own = recomputed_layers(workload, costs, what).intersection(layers) if what.what else frozenset()
    if not own:
        return None
    if what.what == "selective":
        cores = [cost.attention.saved_bytes if cost.attention else 0 for cost in costs]
        kept_by = tuple(costs[i].saved_bytes - cores[i] for i in layers)
        return Recomputed(own, True, False, kept_by, tuple(cores[i] for i in layers))
    whole = what.what == "stages"
    kept = {i: 0 if i in own else costs[i].saved_bytes for i in layers}
    again = {i: costs[i].saved_bytes if i in own else 0 for i in layers}
    places = {layer.name: i for i, layer in enumerate(workload.layers)}
    for tensor in workload.tensors:
        at = _Tensor.of(tensor, places)
        first = at.kept_at(layers, own, whole)
        if first is not None:
            count = tensor_bytes(tensor, microbatch, workload.microbatch, split)
            kept[first] += count
            if at.saver in own and not at.made_with(at.saver, layers, whole):
                again[at.saver] = max(again[at.saver] - count, 0)
    return Recomputed(own, False, whole, tuple(kept.values()), tuple(again.values()))


class _Tensor(NamedTuple):
    """Where a tensor is made, read, and kept first; -1: nowhere."""

    producer: int
    readers: tuple[int, ...]
    saver: int

    @classmethod
    def of(cls, tensor: Tensor, places: dict[str, int]) -> _Tensor:
        readers = tuple(places[name] for name in tensor.consumers)
        return cls(places.get(tensor.producer, -1), readers, places.get(tensor.saved_by, -1))

    def made_with(self, layer: int, layers: range, whole: bool) -> bool:
        """Whether what computes a layer again makes it too."""
        return self.producer in layers if whole else self.producer == layer

    def kept_at(self, layers: range, own: frozenset[int], whole: bool) -> int | None:
        """Return the first layer of a stage that keeps it because others are computed again; None if it is not kept.

        That is what a layer reads that is computed again and does not make it; and what one makes, and would keep,
        that another reads which is not computed again. What other layers keep, or came as a message, counts there.
        """
        if self.saver in layers and self.saver not in own:
            return None
        if self.saver not in layers and self.producer not in layers:
            return None
        readers = [i for i in self.readers if i in layers]
        needed = [i for i in readers if (not self.made_with(i, layers, whole) if i in own else self.saver in own)]
        return min(needed, default=None)


def fraction_again(cost: Cost, partly: bool) -> float:
    """Return what of a layer's forward runs again: all, or its attention core."""
    return cost.attention.forward_fraction if partly and cost.attention else 1.0


def again_s(cost: Cost, partly: bool) -> float:
    """Return the median seconds of what of a layer runs again, on a device of speed 1."""
    return median_s(cost.samples)[0] * fraction_again(cost, partly)


def watched_fractions(costs: Iterable[Cost], what: Recompute) -> list[float]:
    """Return what attention cores take of forwards that were timed whole, where a plan runs them again."""
    if what.what != "selective":
        return []
    found = [cost for cost in costs if cost.attention is not None]
    timed = [cost for cost in found if cost.fidelity not in (Fidelity.GIVEN, Fidelity.ANALYTICAL)]
    return [cost.attention.forward_fraction for cost in timed if cost.attention is not None]


def _named(workload: Workload, word: str, asked: str) -> list[int]:
    """Return the layers that a name, a pattern or a number means."""
    names = [layer.name for layer in workload.layers]
    if word in names:
        return [names.index(word)]
    if word.isdecimal():
        if int(word) < len(names):
            return [int(word)]
        raise MpsimError(f"{asked} names layer {word}, {workload.name!r} has layers 0 to {len(names) - 1}")
    found = [i for i, name in enumerate(names) if fnmatchcase(name, word)]
    if not found:
        known = [*names, *(("all",) if asked == "offload" else (*WHAT, EXCEPT_LAST))]
        raise MpsimError(f"{asked} names layer {word!r}, which {workload.name!r} has not{did_you_mean(word, known)}")
    return found


def _has_backward(cost: Cost) -> bool:
    samples = cost.samples
    return bool(cost.saved_bytes) or any(samples.backward_input_s) or any(samples.backward_weight_s)
