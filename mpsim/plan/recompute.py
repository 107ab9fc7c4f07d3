"""What of a forward is computed again right before its backward, instead of being kept from one to the other, as text.

- ``full``: each layer by itself: of a layer only what it reads is kept, and right before its backward its forward runs
  again (torch.utils.checkpoint around each layer).
- ``selective``: the attention core alone, which keeps much and computes little (Korthikanti et al.,
  https://arxiv.org/abs/2205.05198).
- ``stages``: a whole stage at once, which need not wait for the gradient that its backward needs (GPipe and torchgpipe,
  https://arxiv.org/abs/2004.09910).
- names, patterns (``model.layers.*``) or numbers of layers, with commas between: as ``full``, those alone.

With ``except-last`` beside it the last micro-batch of a step keeps all, as its backward comes first or next; alone that
is torchgpipe's default, of whole stages.
"""

from __future__ import annotations

from typing import NamedTuple

from mpsim.errors import MpsimError

__all__ = ["EXCEPT_LAST", "NOTHING_AGAIN", "WHAT", "Recompute", "parse_offload", "parse_recompute"]

WHAT = ("full", "selective", "stages")
EXCEPT_LAST = "except-last"


class Recompute(NamedTuple):
    """What is computed again.

    Attributes
    ----------
    what : str
        ``full``, ``selective``, ``stages``, ``layers`` or, of nothing, ``""``.
    layers : tuple of str
        Names, patterns or numbers of layers, where it is some of them.
    except_last : bool
        Whether the last micro-batch keeps all.
    """

    what: str = ""
    layers: tuple[str, ...] = ()
    except_last: bool = False


NOTHING_AGAIN = Recompute()


def parse_offload(text: str) -> Recompute:
    """Read whose activations go to the host: ``all``, or names, patterns or numbers of layers.

    Raises
    ------
    MpsimError
        Words of recomputation, or an empty name.

    Examples
    --------
    >>> parse_offload("all").what, parse_offload("h.*").layers
    ('full', ('h.*',))
    """
    found = parse_recompute("full" if text == "all" else text)
    if (found.what and found.what not in ("full", "layers")) or found.except_last or text == "full":
        raise MpsimError(f"offload is {text!r}, expected all, or names, patterns or numbers of layers")
    return found


def parse_recompute(text: str) -> Recompute:
    """Read what is computed again.

    Raises
    ------
    MpsimError
        Two things at once, or an empty name.

    Examples
    --------
    >>> parse_recompute("h.*,12,except-last")
    Recompute(what='layers', layers=('h.*', '12'), except_last=True)
    >>> parse_recompute("except-last").what
    'stages'
    """
    if not isinstance(text, str):
        raise MpsimError(f"recompute is {text!r}, expected text: {', '.join(WHAT)}, {EXCEPT_LAST}, or names of layers")
    if text in ("", "none"):
        return NOTHING_AGAIN
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise MpsimError(f"recompute is {text!r}, with an empty name in it: give names, patterns or numbers of layers")
    rest = tuple(word for word in words if word != EXCEPT_LAST)
    except_last = len(rest) < len(words)
    if not rest:
        return Recompute("stages", (), except_last)
    named = [word for word in rest if word in (*WHAT, "none")]
    if named and len(rest) > 1:
        other = next((word for word in rest if word != named[0]), named[0])
        raise MpsimError(f"recompute is {text!r}: {named[0]} and {other} are two different things, leave one out")
    return Recompute(rest[0], (), except_last) if named else Recompute("layers", rest, except_last)
