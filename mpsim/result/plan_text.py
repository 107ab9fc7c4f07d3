"""A plan's text in a result or a table's row, which knows of what batch and runtime these are."""

from __future__ import annotations

from mpsim.errors import shortened

__all__ = ["PlanText"]

_MOST = 1_000  # Half of a list of hundreds of devices says as much.


class PlanText(str):
    """The text of a plan: text as any other, from which the very plan is read, batch and runtime too.

    The text says neither, for results and tables have them in fields of their own.

    Attributes
    ----------
    batch : int
        Of the result or row; 0: not known.
    runtime : str
        Likewise.

    Examples
    --------
    >>> text = PlanText("dp=2", batch=64, runtime="torch-nccl")
    >>> text == "dp=2", text.batch
    (True, 64)
    """

    batch: int
    runtime: str

    def __repr__(self) -> str:
        return repr(shortened(str(self), _MOST))

    def __new__(cls, text: str, batch: int = 0, runtime: str = "ideal") -> PlanText:
        """Return a text with what stands beside it."""
        made = super().__new__(cls, text)
        made.batch, made.runtime = batch, runtime
        return made
