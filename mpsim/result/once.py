"""Phrases that say nearly the same, said once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile

__all__ = ["once"]

_NUMBER = re.compile(r"(?<![\w.-])\d[\d.,/]*(?![\w-])")
_MOST_WORDS, _MOST_ITEMS, _LEAST_COMMON = 4, 4, 2


def once(phrases: Iterable[str]) -> tuple[str, ...]:
    """Return phrases in their order, those that differ in a name or a number in one, which has all of these.

    Of those that differ in more than one number the first stands for all, and says of how many.

    Examples
    --------
    >>> once(["a share is taken as 1/4 of it all", "rooflines of T4", "a share is taken as 1/8 of it all"])
    ('a share is taken as 1/4, 1/8 of it all', 'rooflines of T4')
    >>> once(["layers sum to 0.9 of the step at micro-batch 4", "layers sum to 0.8 of the step at micro-batch 8"])
    ('layers sum to 0.9 of the step at micro-batch 4 (and 1 like it)',)
    """
    groups: list[list[str]] = []
    for phrase in dict.fromkeys(phrases):
        for group in groups:
            if _alike(group[0], phrase):
                group.append(phrase)
                break
        else:
            groups.append([phrase])
    return tuple(map(_said, groups))


def _alike(one: str, other: str) -> bool:
    if _NUMBER.sub("#", one) == _NUMBER.sub("#", other):
        return True
    first, last, middles = _apart([one, other])
    return min(len(first), len(last)) >= _LEAST_COMMON and all(0 < len(words) <= _MOST_WORDS for words in middles)


def _said(group: Sequence[str]) -> str:
    """Return alike phrases as one."""
    if len(group) == 1:
        return group[0]
    first, last, middles = _apart(group)
    if any(not 0 < len(words) <= _MOST_WORDS for words in middles):
        return f"{group[0]} (and {len(group) - 1} like it)"
    end = "," if all(words[-1].endswith(",") for words in middles) else ""
    items = [*dict.fromkeys(item for words in middles for item in " ".join(words).removesuffix(end).split(", "))]
    if len(items) > _MOST_ITEMS:
        items = [*items[:_MOST_ITEMS], f"and {len(items) - _MOST_ITEMS} more"]
    return " ".join([*first, ", ".join(items) + end, *last])


def _apart(phrases: Sequence[str]) -> tuple[list[str], list[str], list[list[str]]]:
    """Return the words that phrases begin with alike, those that they end with alike, and those of each in between."""
    words = [phrase.split() for phrase in phrases]
    first = _common(words)
    rest = [one[len(first) :] for one in words]
    last = _common([one[::-1] for one in rest])[::-1]
    middles = [one[: len(one) - len(last)] for one in rest]
    if last and not all(middles) and any("," in word for one in middles for word in one):
        middles = [[*one, last[0]] for one in middles]  # the last of a list that the other phrase has alone
        last = last[1:]
    return first, last, middles


def _common(words: Sequence[Sequence[str]]) -> list[str]:
    return [one[0] for one in takewhile(lambda one: len({*one}) == 1, zip(*words, strict=False))]
