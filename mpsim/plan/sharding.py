"""What a rank does not hold: what replicas share among them (ZeRO, FSDP), and what it computes again instead."""

from __future__ import annotations

from dataclasses import dataclass

from mpsim.errors import MpsimError
from mpsim.plan.recompute import parse_recompute

__all__ = ["Sharding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How replicas of a plan shard their state (Rajbhandari et al., https://arxiv.org/abs/1910.02054).

    Attributes
    ----------
    zero : int
        0: nothing, as DistributedDataParallel. 1: optimizer state (a distributed optimizer). 2: gradients too. 3:
        parameters too, as FSDP (https://arxiv.org/abs/2304.11277): each layer's are gathered before a pass uses them,
        and dropped behind it. Ranks that share a sequence shard as replicas do.
    gather_ahead : int
        Layers whose gathering is begun before the one that is computed; of ``zero=3``.
    keep_gathered : bool
        Gather each layer once a step and keep it until its last backward, instead of before each pass; of ``zero=3``.
    shards : int
        Ranks that shard together, where not all do: each such group is a replica of the others (hybrid sharding);
        0: all.
    sequence : bool
        Whether the ranks that share a layer's weights also share the sequence where they would do the same work twice
        (https://arxiv.org/abs/2205.05198).
    recompute : str
        What is computed again right before its backward instead of being kept: ``full``, ``selective``, ``stages``,
        ``except-last`` or names, patterns and numbers of layers, as `mpsim.plan.recompute` says; ``""``: nothing.

    Examples
    --------
    >>> Sharding(zero=3).text
    'zero=3'
    """

    zero: int = 0
    gather_ahead: int = 1
    keep_gathered: bool = False
    shards: int = 0
    sequence: bool = False
    recompute: str = ""

    def __post_init__(self) -> None:
        if self.zero not in (0, 1, 2, 3):
            raise MpsimError(f"zero is {self.zero}: 0 shards nothing, 1 optimizer state, 2 gradients, 3 parameters too")
        if self.gather_ahead < 0:
            raise MpsimError(f"gather_ahead is {self.gather_ahead}, expected 0 or more layers")
        if self.shards < 0 or (self.shards and not self.zero):
            raise MpsimError(f"shards is {self.shards} at zero={self.zero}: give zero 1 to 3, and 0 or more ranks")
        if self.zero != 3 and (self.gather_ahead != 1 or self.keep_gathered):
            raise MpsimError(f"zero is {self.zero}: nothing is gathered, gather_ahead and keep_gathered need zero=3")
        parse_recompute(self.recompute)
        if self.recompute == "none":
            object.__setattr__(self, "recompute", "")

    @property
    def text(self) -> str:
        """What differs from plain replicas that keep all, in a few words."""
        words = ["sequence"] if self.sequence else []
        words += [f"zero={self.zero}"] if self.zero else []
        if self.shards:
            words.append(f"shards={self.shards}")
        if self.gather_ahead != 1:
            words.append(f"ahead={self.gather_ahead}")
        words += ["kept"] if self.keep_gathered else []
        return " ".join([*words, *([f"recompute={self.recompute}"] if self.recompute else [])])
