"""Tables of embeddings that ranks share: each has some of them, and looks them up for the batches of all.

::

    rows ── all-to-all ── own tables ── all-to-all ── interact
            to owners     all batches   to samples

As TorchRec and DLRM (https://arxiv.org/abs/1906.00091, section 4) do it: tables are shared, all else has replicas.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed._functional_collectives import all_to_all_single

from mpsim.workload.exchanged import waited

__all__ = ["SharedTables", "holds_tables"]


def holds_tables(module: nn.Module) -> bool:
    """Whether a module is a list of tables that looks them all up: [batch, tables, …] to [batch, tables, features].

    Examples
    --------
    >>> holds_tables(nn.ModuleList([nn.EmbeddingBag(2, 2)]))
    False
    """
    called = isinstance(module, nn.ModuleList) and type(module).forward is not nn.ModuleList.forward
    return called and len(module) > 0 and all(isinstance(one, nn.Embedding | nn.EmbeddingBag) for one in module)


class SharedTables(nn.ModuleList):  # type: ignore[misc]
    """The tables of one rank: a class to put before that of a list of tables.

    Attributes
    ----------
    ranks : int
        That share the tables.
    held, first : int
        How many this rank has, from which one on.
    group : ProcessGroup or None
        Of those ranks; None: nothing is exchanged, and rows of its own batch stand for those of other ranks'.

    Examples
    --------
    >>> class Tables(nn.ModuleList):
    ...     def forward(self, rows):
    ...         return torch.stack([table(one) for table, one in zip(self, rows.unbind(1))], 1)
    >>> tables = Tables(nn.Embedding(4, 3) for _ in range(2))
    >>> rows = torch.ones(5, 4, dtype=torch.long)
    >>> tables.__class__ = type("Tables", (SharedTables, Tables), {})
    >>> tables.ranks, tables.held, tables.first, tables.group = 2, 2, 0, None
    >>> tables(rows).shape
    torch.Size([5, 4, 3])
    """

    ranks: int
    held: int
    first: int
    group: Any

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [batch, tables, features] of row numbers [batch, tables, …]."""
        batch = len(rows)
        waited(self._exchange(rows.transpose(0, 1).contiguous()))  # the rows that all ask for
        own = rows[:, self.first : self.first + self.held].repeat(self.ranks, *[1] * (rows.dim() - 1))
        returned = self._exchange(super().forward(own))
        by_rank = returned.view(self.ranks, batch, self.held, -1)
        return by_rank.transpose(0, 1).reshape(batch, self.ranks * self.held, -1)

    def _exchange(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if self.group is None else all_to_all_single(rows, None, None, self.group)
