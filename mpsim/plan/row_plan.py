"""A plan's text in a table's row, which knows of what batch and runtime the row is."""

from __future__ import annotations

__all__ = ["RowPlan"]


class RowPlan(str):
    """The text of a row's plan: text as any other, from which the very plan of the row is read, batch and runtime too.

    A plan's text says neither, for a table has them in columns of their own.

    Attributes
    ----------
    batch : int
        The row's; 0: not known.
    runtime : str
        The row's.

    Examples
    --------
    >>> text = RowPlan("dp=2", batch=64, runtime="torch-nccl")
    >>> text == "dp=2", text.batch
    (True, 64)
    """

    batch: int
    runtime: str

    def __new__(cls, text: str, batch: int = 0, runtime: str = "ideal") -> RowPlan:
        """Return a text with what its row says beside it."""
        made = super().__new__(cls, text)
        made.batch, made.runtime = batch, runtime
        return made
