"""What an import or an export could not represent, so that nothing is dropped silently."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Losses"]


@dataclass(slots=True)
class _Kind:
    count: int
    first: str


class Losses:
    """Collects what could not be represented: each kind once, with how often and the first place it was met.

    Examples
    --------
    >>> losses = Losses()
    >>> for name in ("a", "b"):
    ...     losses.add("counters are not read", name)
    >>> losses.lines
    ('counters are not read: 2, the first a',)
    """

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def add(self, what: str, where: str = "") -> None:
        """Add one thing that could not be represented."""
        kind = self._kinds.setdefault(what, _Kind(0, where))
        kind.count += 1

    def update(self, other: Losses) -> None:
        """Add all that another has."""
        for what, kind in other._kinds.items():
            self._kinds.setdefault(what, _Kind(0, kind.first)).count += kind.count

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each kind."""
        return tuple(
            what if not kind.first else f"{what}: {kind.count}, the first {kind.first}"
            for what, kind in self._kinds.items()
        )

    def __len__(self) -> int:
        return len(self._kinds)
