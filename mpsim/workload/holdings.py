"""Which layer holds each parameter and buffer of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["held_by", "owners"]


def held_by(
    names: Iterable[str], readers: Sequence[Iterable[str]], makers: Sequence[Iterable[str]], paths: Sequence[str]
) -> list[list[str]]:
    """Return the names that each layer holds; one that several layers use is held by each of them.

    A layer holds what its backward makes gradients for. What no backward does is held by the layers of its own module
    that read it, or else by all that read it; what nothing reads by the layer whose module is nearest.

    Parameters
    ----------
    names : iterable of str
        All parameters, or all buffers.
    readers, makers : sequence of iterable of str
        For each layer the names that its forward reads, and those that its backward makes gradients for.
    paths : sequence of str
        For each layer the path of its module.

    Examples
    --------
    >>> held_by(["a.w", "b.w", "c.w"], [["a.w"], ["a.w", "b.w"]], [["a.w"], []], ["a", "b"])
    [['a.w', 'c.w'], ['b.w']]
    """
    reading, making = [set(one) for one in readers], [set(one) for one in makers]
    held: list[list[str]] = [[] for _ in paths]
    for name in names:
        layers = [i for i, own in enumerate(making) if name in own]
        if not layers:
            layers = [i for i, own in enumerate(reading) if name in own]
            layers = [i for i in layers if _within(name, paths[i])] or layers
        for i in layers or [_nearest(name, paths)]:
            held[i].append(name)
    return held


def owners(held: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return for each layer the names that it holds first: it updates them, and the others do not.

    Examples
    --------
    >>> owners([["a", "tied"], ["tied", "b"]])
    [['a', 'tied'], ['b']]
    """
    seen: set[str] = set()
    owned = []
    for names in held:
        owned.append([name for name in names if name not in seen])
        seen.update(names)
    return owned


def _within(name: str, path: str) -> bool:
    return not path or name.startswith(f"{path}.")


def _nearest(name: str, paths: Sequence[str]) -> int:
    """Return the first layer whose path shares most of its beginning with a name."""
    parts = name.split(".")

    def shared(path: str) -> int:
        count = 0
        for a, b in zip(parts, path.split("."), strict=False):
            if a != b:
                break
            count += 1
        return count

    return max(range(len(paths)), key=lambda i: (shared(paths[i]), -i))
