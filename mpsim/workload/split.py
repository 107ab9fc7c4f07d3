"""The split of a layer: among how many ranks, along which axes, what one of them runs and holds was cut."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mpsim.errors import MpsimError

__all__ = ["WHOLE", "Split", "axes_of", "check_split", "split_of", "split_text"]


class Split(NamedTuple):
    """Among whom a layer is shared; the key of its costs, of what a rank holds of it, and of its tensors' shapes.

    Attributes
    ----------
    tp : int
        Ranks that share its weights.
    cp : int
        Ranks that share the sequence, its attention included (ring attention, Ulysses).
    ep : int
        Ranks that share its experts.
    sequence : bool
        Whether the ranks that share its weights also share the sequence where they would do the same work twice
        (sequence parallelism, https://arxiv.org/abs/2205.05198).

    Examples
    --------
    >>> Split(tp=2, sequence=True).text
    'tp=2 sequence'
    """

    tp: int = 1
    cp: int = 1
    ep: int = 1
    sequence: bool = False

    @property
    def text(self) -> str:
        """The axes along which it is split, in a few words; those of one rank go unsaid, but for tp."""
        words = [f"tp={self.tp}", f"cp={self.cp}", f"ep={self.ep}"]
        shown = [words[0], *(word for word in words[1:] if not word.endswith("=1"))]
        return " ".join([*shown, *(["sequence"] if self.sequence else [])])


WHOLE = Split()


def check_split(split: Split) -> None:
    """Refuse a split that cannot be.

    Raises
    ------
    MpsimError
        Fewer ranks than one along an axis, or a sequence that no ranks share.

    Examples
    --------
    >>> check_split(Split(tp=2, sequence=True))
    """
    names = {"tensor_parallel": split.tp, "context_parallel": split.cp, "expert_parallel": split.ep}
    for name, size in names.items():
        if size < 1:
            raise MpsimError(f"{name} is {size}, expected 1 or more")
    if split.sequence and split.tp == 1:
        raise MpsimError("sequence_parallel shares a sequence among tensor-parallel ranks, tensor_parallel is 1")


def axes_of(split: Split) -> dict[str, Any]:
    """Return a split as the fields by which costs, shards and tensors say it.

    Examples
    --------
    >>> list(axes_of(Split(tp=2, sequence=True)).values())
    [2, 1, 1, True]
    """
    return {
        "tensor_parallel": split.tp,
        "context_parallel": split.cp,
        "expert_parallel": split.ep,
        "sequence_parallel": split.sequence,
    }


def split_of(value: Split | int) -> Split:
    """Return a split as it is, or one among so many ranks that share weights.

    Examples
    --------
    >>> split_of(4)
    Split(tp=4, cp=1, ep=1, sequence=False)
    """
    return value if isinstance(value, Split) else Split(tp=value)


def split_text(value: Any) -> Split:
    """Return the split that a text says: a number of ranks, or such as ``tp=2,cp=4,ep=2,sequence``.

    Raises
    ------
    MpsimError
        A word that is none, or a number below 1.

    Examples
    --------
    >>> split_text("2"), split_text("tp=2,cp=4,sequence").text
    (Split(tp=2, cp=1, ep=1, sequence=False), 'tp=2 cp=4 sequence')
    """
    found: dict[str, Any] = {}
    for word in str(value).replace(",", " ").split():
        name, _, number = word.partition("=") if "=" in word else ("tp", "", word)
        if word == "sequence":
            found["sequence"] = True
        elif name in ("tp", "cp", "ep") and re.fullmatch("0*[1-9][0-9]{0,8}", number) and name not in found:
            found[name] = int(number)
        else:
            raise MpsimError(f"split is {value!r}: write a number of ranks, or such as tp=2,cp=4,ep=2,sequence")
    if found.get("sequence") and found.get("tp", 1) == 1:
        raise MpsimError(f"split is {value!r}: a sequence is shared by the ranks that share weights, give tp 2 or more")
    return Split(**found)
