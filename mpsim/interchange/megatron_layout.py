"""Megatron's pipeline layout: which layers each stage has, as in ``Et*2|(t*2|)*34,t*3|L``.

``E`` is the embedding, ``t`` a transformer layer, ``m`` one of multi-token prediction, ``L`` the output and loss; a bar
ends a stage, ``*N`` repeats what stands before it, brackets group, commas and spaces say nothing
(https://github.com/NVIDIA/Megatron-LM, ``--pipeline-model-parallel-layout``).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from mpsim.errors import MpsimError

__all__ = ["layout_text", "parse_layout"]

_TOKEN = re.compile(r"\s*([EtmL|()]|\*\s*\d+)")
_MOST = 1_000_000


def parse_layout(text: str) -> list[str]:
    """Return the letters of each stage.

    Raises
    ------
    MpsimError
        No such layout: brackets that do not close, a repetition of nothing, or letters that are none.

    Examples
    --------
    >>> parse_layout("Et*2|(t|)*2,tL")
    ['Ett', 't', 't', 'tL']
    """
    tokens = _tokens(text)
    expanded, rest = _expanded(tokens, text, False)
    if rest:
        raise MpsimError(f"layout {text!r} closes a bracket that it does not open: write it as in Et*2|(t*2|)*3,tL")
    stages = expanded.split("|")
    return stages[:-1] if len(stages) > 1 and not stages[-1] else stages


def _tokens(text: str) -> list[str]:
    plain, found, at = text.replace(",", " "), [], 0
    while plain[at:].strip():
        match = _TOKEN.match(plain, at)
        if match is None:
            raise MpsimError(
                f"layout {text!r} has {plain[at:].strip()[0]!r}: write E, t, m, L, bars, brackets and *N alone"
            )
        found.append(re.sub(r"\s", "", match[1]))
        at = match.end()
    return found


def _expanded(tokens: Sequence[str], text: str, inside: bool) -> tuple[str, Sequence[str]]:
    """Return what tokens stand for up to the bracket that closes, and those behind it."""
    parts: list[str] = []
    while tokens:
        token, tokens = tokens[0], tokens[1:]
        if token == "(":
            part, tokens = _expanded(tokens, text, True)
            parts.append(part)
        elif token == ")":
            return ("".join(parts), tokens) if inside else ("".join(parts), (token,))
        elif token[0] == "*":
            count = int(token[1:])
            if not parts or not parts[-1] or len(parts[-1]) * count > _MOST:
                raise MpsimError(f"layout {text!r} repeats nothing, or more than {_MOST:,} layers, by {token!r}")
            parts[-1] *= count
        else:
            parts.append(token)
    if inside:
        raise MpsimError(f"layout {text!r} does not close a bracket: write it as in Et*2|(t*2|)*3,tL")
    return "".join(parts), ()


def layout_text(stages: Sequence[str]) -> str:
    """Return the letters of each stage as Megatron's layout, what repeats written once.

    Examples
    --------
    >>> layout_text(["Ett", *["tt"] * 34, "ttt", "L"])
    'Et*2|(t*2|)*34,t*3|L'
    """
    parts = []
    for letters, alike in itertools.groupby(stages):
        text = "".join(_times(letter, len(list(run))) for letter, run in itertools.groupby(letters))
        count = len(list(alike))
        parts.append((text + "|", count))
    written = ""
    for i, (text, count) in enumerate(parts):
        last = i == len(parts) - 1
        if count > 1 and last:  # the bar that ends the last stage is left out
            count, tail = count - 1, text.removesuffix("|")
        else:
            tail = ""
            text = text.removesuffix("|") if last else text
        comma = "," if written.endswith(")") is False and _repeats(written) else ""
        written += comma + (f"({text})*{count}" if count > 1 else text)
        if tail:
            written += ("," if count > 1 else "") + tail
    return written


def _repeats(text: str) -> bool:
    """Whether a text ends with the number of a bracket's repetition, behind which a comma is due."""
    return re.search(r"\)\*\d+$", text) is not None


def _times(letter: str, count: int) -> str:
    return letter if count == 1 else f"{letter}*{count}"
