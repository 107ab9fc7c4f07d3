"""ResNet-101 and U-Net as torchgpipe's benchmarks have them: a row of small layers, with skips over them.

What each computes, moves and keeps is counted for one sample in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Leaf", "resnet101", "unet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A layer without layers in it.

    Attributes
    ----------
    flops : float
        Of products, forward; backward has twice as many.
    moved, moved_back : float
        Elements read and written, forward and backward.
    parameters : int
    output : float
        Elements that it makes.
    saved : float
        Elements kept for backward, those that it makes and another keeps not among them.
    skip : int
        The leaf whose output it reads beside that of the one before; -1: none.
    """

    flops: float = 0.0
    moved: float = 0.0
    moved_back: float = 0.0
    parameters: int = 0
    output: float = 0.0
    saved: float = 0.0
    skip: int = -1


@dataclass(slots=True)
class _Row:
    """Leaves, and the shape of what the last one makes: channels, and height and width."""

    channels: int
    size: int
    leaves: list[Leaf] = field(default_factory=list)

    @property
    def elements(self) -> float:
        return float(self.channels * self.size**2)

    def add(self, leaf: Leaf) -> None:
        self.leaves.append(leaf)

    def convolution(self, channels: int, kernel: int, stride: int = 1) -> None:
        """Add a convolution, which keeps what it reads."""
        before, was = self.elements, self.channels
        self.channels, self.size = channels, self.size // stride
        weights = was * channels * kernel**2
        self.add(
            Leaf(
                flops=2 * weights * self.size**2, moved=before + self.elements, moved_back=2 * (before + self.elements),
                parameters=weights, output=self.elements, saved=before,
            )
        )  # fmt: skip

    def norm(self, *, affine: bool = True) -> None:
        """Add a normalisation: it reads twice and writes, and keeps what it reads."""
        n = self.elements
        parameters = 2 * self.channels if affine else 0
        self.add(Leaf(moved=3 * n, moved_back=5 * n, parameters=parameters, output=n, saved=n))

    def pointwise(self, *, saved: bool = True) -> None:
        """Add an activation or dropout."""
        n = self.elements
        self.add(Leaf(moved=2 * n, moved_back=3 * n, output=n, saved=n if saved else 0.0))

    def nothing(self) -> int:
        """Add a layer that hands on what it gets, and return its number."""
        self.add(Leaf(output=self.elements))
        return len(self.leaves) - 1

    def pool(self, stride: int) -> None:
        """Add a pooling, which keeps indices of 8 bytes for what it makes."""
        before = self.elements
        self.size //= stride
        self.add(Leaf(moved=before + self.elements, moved_back=before + self.elements, output=self.elements,
                      saved=before + 2 * self.elements))  # fmt: skip


def resnet101(*, activations: bool = True) -> list[Leaf]:
    """Return ResNet-101 on 224 × 224: 370 leaves, or 304 as it was once, without the activations inside blocks.

    Examples
    --------
    >>> len(resnet101()), len(resnet101(activations=False))
    (370, 304)
    >>> sum(leaf.parameters for leaf in resnet101()) // 1000
    44549
    """
    row = _Row(3, 224)
    row.convolution(64, 7, 2)
    row.norm()
    row.pointwise()
    row.pool(2)
    for planes, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 23, 2), (512, 3, 2)):
        for i in range(blocks):
            _bottleneck(row, planes, stride if i == 0 else 1, activations)
    row.add(Leaf(moved=row.elements, moved_back=row.elements, output=row.channels))
    row.size = 1
    row.nothing()
    row.add(
        Leaf(flops=2 * 2048 * 1000, moved=3048, moved_back=6096, parameters=2048 * 1000 + 1000, output=1000, saved=2048)
    )
    return row.leaves


def _bottleneck(row: _Row, planes: int, stride: int, activations: bool) -> None:
    channels, size = row.channels, row.size
    skip = row.nothing()
    for out, kernel, step in ((planes, 1, 1), (planes, 3, stride), (4 * planes, 1, 1)):
        row.convolution(out, kernel, step)
        row.norm()
        if activations and out == planes:
            row.pointwise()
    n, weights = row.elements, 0
    moved, saved = 3 * n, 0.0
    if stride != 1 or channels != row.channels:  # the way round has a convolution and a norm
        weights = channels * row.channels
        moved, saved = moved + channels * size**2 + 4 * n, channels * size**2 + n
    parameters = weights + 2 * row.channels if weights else 0
    row.add(
        Leaf(
            flops=2 * weights * row.size**2, moved=moved, moved_back=2 * moved - 3 * n, parameters=parameters,
            output=n, saved=saved, skip=skip,
        )
    )  # fmt: skip
    row.pointwise()


def unet(convolutions: int, channels: int, depth: int = 5, size: int = 192) -> list[Leaf]:
    """Return a U-Net on 192 × 192 with so many convolutions at each of its levels.

    Examples
    --------
    >>> len(unet(11, 128)), sum(leaf.parameters for leaf in unet(6, 72)) // 100_000
    (505, 3621)
    """
    row = _Row(3, size)
    skips = []
    for i in range(depth):
        _stacked(row, channels * 2**i, channels * 2**i, convolutions)
        skips.append(row.nothing())
        row.pool(2)
    _stacked(row, channels * 2**depth, channels * 2 ** (depth - 1), convolutions)
    for i in reversed(range(depth)):
        row.size *= 2
        row.add(Leaf(moved=1.25 * row.elements, moved_back=1.25 * row.elements, output=row.elements))
        row.channels *= 2
        row.add(Leaf(moved=2 * row.elements, moved_back=2 * row.elements, output=row.elements, skip=skips[i]))
        out = int(channels * 2 ** (i - 1))
        _stacked(row, out, out, convolutions)
    row.convolution(1, 1)
    return row.leaves


def _stacked(row: _Row, hidden: int, out: int, count: int) -> None:
    """Add convolutions, each with dropout of whole channels, a normalisation of each sample, and an activation."""
    for i in range(count):
        row.convolution(out if i == count - 1 else hidden, 3)
        row.pointwise(saved=False)
        row.norm(affine=False)
        row.pointwise()
