"""What a rank does not hold: what replicas share among them (ZeRO, FSDP), and what it computes again instead."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mpsim.calls import checked
from mpsim.errors import MpsimError, unknown
from mpsim.plan.recompute import parse_offload, parse_recompute
from mpsim.reprs import short_repr
from mpsim.workload.tensors import check_dtype

__all__ = ["RESHARDED", "Sharding"]

RESHARDED = ("blocks", "all", "none")
_OF_GATHERS = {"gather_ahead": 1, "keep_gathered": False, "units": "blocks", "reshard_after_forward": "blocks"}
# The first of ZeRO's stages at which a field says anything.
_FIRST = {"shards": 1, "gather_dtype": 1, "reduce_dtype": 1, "accumulate": 2} | dict.fromkeys(_OF_GATHERS, 3)


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How replicas of a plan shard their state (Rajbhandari et al., https://arxiv.org/abs/1910.02054).

    The third stage is FSDP as PyTorch's ``fully_shard`` does it
    (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).

    Attributes
    ----------
    zero : int
        0: nothing, as DistributedDataParallel. 1: optimizer state (a distributed optimizer). 2: gradients too. 3:
        parameters too, as FSDP (https://arxiv.org/abs/2304.11277): a unit's are gathered before a pass uses them,
        and dropped behind it. Ranks that share a sequence shard as replicas do.
    gather_ahead : int
        Units whose gathering is begun before the one that is computed; of ``zero=3``.
    keep_gathered : bool
        Gather each unit once a step and keep it until its last backward, instead of before each pass; of ``zero=3``.
    units : str
        What is gathered and reduced at once, of ``zero=3``: ``blocks``, the members of a model's lists of modules
        (``layers.3``; where there is none, each layer), and all else a root unit, as ``fully_shard`` of each block and
        of the model makes them; ``layers``, each by itself; ``model``, all at once; or globs of paths, with commas.
    reshard_after_forward : str
        What is dropped behind a forward and gathered again for its backward: ``blocks``, all but the root unit;
        ``all``; or ``none``. Behind a backward all is dropped. Of ``zero=3``.
    gather_dtype, reduce_dtype : str
        Types in which parameters are gathered, and gradients reduced; ``""``: as traced, parameters in that of mixed
        precision's products. Gradients are by default of the type that parameters are gathered in, if that is given.
    accumulate : bool
        Keep gradients whole until the last micro-batch's backward and reduce them there alone; of ``zero`` 2 and 3,
        which otherwise reduce them behind each backward.
    shards : int
        Ranks that shard together, where not all do: each such group is a replica of the others (hybrid sharding);
        0: all.
    sequence : bool
        Whether the ranks that share a layer's weights also share the sequence where they would do the same work twice
        (https://arxiv.org/abs/2205.05198).
    recompute : str
        What is computed again right before its backward instead of being kept: ``full``, ``selective``, ``stages``,
        ``except-last`` or names, patterns and numbers of layers, as `mpsim.plan.recompute` says; ``""``: nothing.
    offload : str
        Whose activations are at the host between forward and backward: ``all``, or names, patterns and numbers of
        layers; ``""``: nobody's. A layer's go behind its forward, and come back while what is before its backward runs.

    Examples
    --------
    >>> Sharding(zero=3).text
    'zero=3'
    """

    zero: int = 0
    gather_ahead: int = 1
    keep_gathered: bool = False
    units: str = "blocks"
    reshard_after_forward: str = "blocks"
    gather_dtype: str = ""
    reduce_dtype: str = ""
    accumulate: bool = False
    shards: int = 0
    sequence: bool = False
    recompute: str = ""
    offload: str = ""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if self.zero not in (0, 1, 2, 3):
            raise MpsimError(f"zero is {self.zero}: 0 shards nothing, 1 optimizer state, 2 gradients, 3 parameters too")
        if self.gather_ahead < 0:
            raise MpsimError(f"gather_ahead is {self.gather_ahead}, expected 0 or more units")
        if self.shards < 0 or (self.shards and not self.zero):
            raise MpsimError(f"shards is {self.shards} at zero={self.zero}: give zero 1 to 3, and 0 or more ranks")
        parse_recompute(self.recompute)
        parse_offload(self.offload)
        for name in ("recompute", "offload"):
            if getattr(self, name) == "none":
                object.__setattr__(self, name, "")
        if self.shards == 1:
            raise MpsimError(f"shards is 1 at zero={self.zero}: one rank shards nothing, give 2 or more, or zero=0")
        if self.reshard_after_forward not in RESHARDED:
            raise unknown("way to reshard after forward", self.reshard_after_forward, RESHARDED)
        if not all(self.units.split(",")):
            raise MpsimError(f"units is {self.units!r}, expected blocks, layers, model, or globs with commas between")
        said = [name for name, default in _OF_GATHERS.items() if getattr(self, name) != default]
        if self.zero != 3 and said:
            raise MpsimError(f"zero is {self.zero}: nothing is gathered, {' and '.join(said)} needs zero=3")
        if not self.zero and (self.gather_dtype or self.reduce_dtype):
            raise MpsimError("zero is 0: gather_dtype and reduce_dtype are of sharded replicas, give zero=1, 2 or 3")
        if self.accumulate and self.zero < 2:
            raise MpsimError(f"zero is {self.zero}: gradients are reduced once a step, accumulate needs zero=2 or 3")
        for name in ("gather_dtype", "reduce_dtype"):
            if getattr(self, name):
                check_dtype(getattr(self, name), name)

    def at(self, zero: int) -> Sharding:
        """Return the same at another of ZeRO's stages, without what says nothing there.

        Examples
        --------
        >>> Sharding(zero=3, shards=2, units="layers").at(1).text
        'zero=1 shards=2'
        """
        lost = {name: getattr(_PLAIN, name) for name, first in _FIRST.items() if zero < first}
        return replace(self, zero=zero, **lost)

    @property
    def text(self) -> str:
        """What differs from plain replicas that keep all, in a few words."""
        words = ["sequence"] if self.sequence else []
        words += [f"zero={self.zero}"] if self.zero else []
        if self.shards:
            words.append(f"shards={self.shards}")
        if self.gather_ahead != 1:
            words.append(f"ahead={self.gather_ahead}")
        for name, word in _WORDS.items():
            if (value := getattr(self, name)) != getattr(_PLAIN, name):
                words.append(f"{word}={value}")
        words += ["kept"] * self.keep_gathered + ["accumulated"] * self.accumulate
        words += [f"recompute={self.recompute}"] if self.recompute else []
        words += [f"offload={self.offload}"] if self.offload else []
        return " ".join(words)


_WORDS = {"units": "units", "reshard_after_forward": "reshard", "gather_dtype": "gather", "reduce_dtype": "reduce"}
_PLAIN = Sharding()
