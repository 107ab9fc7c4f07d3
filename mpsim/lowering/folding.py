"""Ranks that do the same at the same moments, as classes: one is simulated and stands for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mpsim.program.model import Traffic

__all__ = ["Folding", "Unfolded"]


class Unfolded:
    """All ranks of a plan, each for itself."""

    def __init__(self, place: Sequence[int]) -> None:
        self.ranks: Sequence[int] = range(len(place))

    @property
    def stands_for(self) -> Mapping[int, int]:
        """How many devices each simulated one stands for; nothing where each stands for itself."""
        return {}

    def head(self, ranks: Sequence[int]) -> int:
        """Return the rank whose group stands for one of these ranks."""
        return ranks[0]

    def members(self, group: tuple[int, ...]) -> tuple[int, ...]:
        """Return the simulated devices of a group."""
        return group

    def traffic(self, traffic: Traffic, group: Sequence[int]) -> Traffic:
        """Return what a transfer among a group puts on links with all that are alike."""
        return traffic


class Folding(Unfolded):
    """Ranks in classes, and links.

    Parameters
    ----------
    place : sequence of int
        The device of each rank.
    stand_in : sequence of int
        For each rank, that which stands for it: the first of its class.
    links : sequence of int
        For each link of the topology the first of its class.
    """

    def __init__(self, place: Sequence[int], stand_in: Sequence[int], links: Sequence[int]) -> None:
        counts = Counter(stand_in)
        self.ranks = sorted(counts)
        self._stand_in, self._links = stand_in, links
        self._device = {place[rank]: place[own] for rank, own in enumerate(stand_in)}
        self._counts = {place[rank]: count for rank, count in counts.items()}
        self._alike = Counter(links)
        self._members: dict[tuple[int, ...], tuple[int, ...]] = {}

    @property
    def stands_for(self) -> Mapping[int, int]:
        """How many devices each simulated one stands for."""
        return self._counts

    def head(self, ranks: Sequence[int]) -> int:
        """Return the rank whose group stands for one of these ranks."""
        return min(self._stand_in[rank] for rank in ranks)

    def members(self, group: tuple[int, ...]) -> tuple[int, ...]:
        """Return the simulated devices of a group."""
        if group not in self._members:
            self._members[group] = tuple(dict.fromkeys(self._device[device] for device in group))
        return self._members[group]

    def traffic(self, traffic: Traffic, group: Sequence[int]) -> Traffic:
        """Return what a transfer among a group puts on links with all that are alike.

        A class of so many transfers puts as many on each link of a class, together on all links of it.
        """
        own = self._device[group[0]]
        copies = self._counts[own] // sum(self._device[device] == own for device in group)
        if copies * sum(self._device[device] == own for device in group) != self._counts[own]:
            raise AssertionError(f"{self._counts[own]} alike make no whole number of groups")
        carried = Counter((self._links[link], count) for link, count in zip(traffic.links, traffic.bytes, strict=True))
        shares = [divmod(copies * n, self._alike[link]) for (link, _), n in carried.items()]
        if any(left for _, left in shares):
            raise AssertionError("links of one class carry unlike numbers of transfers")
        return replace(
            traffic,
            links=tuple(link for link, _ in carried),
            bytes=tuple(count for _, count in carried),
            alike=tuple(n for n, _ in shares),
            copies=copies,
            one=traffic,
        )
