"""Which collective a name means: of a program, or of the log that somebody kept."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["kinds_in", "kinds_told"]

_KINDS = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "reducescatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "alltoallv": "all_to_all",
    "all2all": "all_to_all",
    "a2a": "all_to_all",
    "broadcast": "broadcast",
    "bcast": "broadcast",
    "reduce": "reduce",
    "gather": "gather",
    "scatter": "scatter",
    "sendrecv": "send_receive",
    "sendreceive": "send_receive",
}
# Words as they are joined by case, digits, hyphens, underscores or blanks.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_MOST_WORDS = max(len(_WORD.findall(name)) for name in ("SendReceive", "all_to_all_v", "all2all"))
_LIBRARY = re.compile(r"^(nccl|rccl)(?=.)")
_PROGRAM = re.compile(r"(?P<starting>Collective test starting:\s*)?(?P<name>[\w-]+_perf\b|(?<=starting: )\S+)")


def kinds_in(name: str) -> list[str]:
    """Return the kinds of collective that the words of a name spell, each run of words the longest that spells one.

    Examples
    --------
    >>> [kinds_in(name) for name in ("nccl_allreduce", "ReduceScatter-8gpu", "ncclAllGather", "reduce", "preduced")]
    [['all_reduce'], ['reduce_scatter'], ['all_gather'], ['reduce'], []]
    """
    words = [_LIBRARY.sub("", word.lower()) for word in _WORD.findall(name)]
    found, at = [], 0
    while at < len(words):
        ends = range(min(len(words), at + _MOST_WORDS), at, -1)
        end = next((end for end in ends if "".join(words[at:end]) in _KINDS), None)
        if end is not None:
            found.append(_KINDS["".join(words[at:end])])
        at = end or at + 1
    return list(dict.fromkeys(found))


def kinds_told(lines: Sequence[str]) -> list[str]:
    """Return the kinds whose programs some lines name, in order; an empty one where a program of none is starting.

    Examples
    --------
    >>> kinds_told(["$ srun ./build/all_reduce_perf -b 8", "# Collective test starting: hypercube_perf"])
    ['all_reduce', '']
    """
    told = []
    for line in lines:
        for match in _PROGRAM.finditer(line):
            kinds = kinds_in(match["name"])
            if len(kinds) == 1 or match["starting"]:
                told.append(kinds[0] if len(kinds) == 1 else "")
    return told
