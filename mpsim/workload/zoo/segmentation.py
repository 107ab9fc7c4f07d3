"""U-Net (https://arxiv.org/abs/1505.04597), whose skip connections cross any cut but the outermost.

::

    encoder.0 ─────────────────────────── cat → decoder.0 → head
       encoder.1 ────────────────── cat → decoder.1
          encoder.2 ───────── cat → decoder.2
             encoder.3 ── cat → decoder.3
                bottleneck
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.errors import MpsimError
from mpsim.workload.example import Example

__all__ = ["DoubleConvolution", "UNet", "unet"]


class DoubleConvolution(nn.Module):  # type: ignore[misc]
    """Two 3 × 3 convolutions with ReLU, padded so that the image keeps its size.

    Examples
    --------
    >>> DoubleConvolution(1, 4)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [batch, features, height, width]."""
        return F.relu(self.conv2(F.relu(self.conv1(x))))


class UNet(nn.Module):  # type: ignore[misc]
    """`depth` encoders of `width`, 2 · `width`, … channels, a bottleneck, and as many decoders.

    ``upsample.i`` feeds ``decoder.i``, which reads the output of ``encoder.i`` beside it.

    Examples
    --------
    >>> len(UNet(channels=1, classes=2, width=4, depth=3).decoder)
    3
    """

    def __init__(self, *, channels: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.encoder = nn.ModuleList(map(DoubleConvolution, [channels, *widths[: depth - 1]], widths[:depth]))
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = DoubleConvolution(widths[-2], widths[-1])
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[:depth])
        self.decoder = nn.ModuleList(DoubleConvolution(2 * w, w) for w in widths[:depth])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes, image, image] of images [batch, channels, image, image]."""
        skips = []
        for encoder in self.encoder:
            skips.append(encoder(x))
            x = self.pool(skips[-1])
        x = self.bottleneck(x)
        for i in reversed(range(len(skips))):
            x = self.decoder[i](torch.cat((skips[i], self.upsample[i](x)), dim=1))
        return self.head(x)


def unet(batch: int, *, image: int, channels: int, classes: int, width: int, depth: int) -> Example:
    """Return U-Net with random images, one random class for each pixel, and cross-entropy.

    Examples
    --------
    >>> example = unet(1, image=16, channels=1, classes=2, width=4, depth=2)
    >>> example.model(*example.inputs).shape
    torch.Size([1, 2, 16, 16])
    """
    if image % 2**depth:
        raise MpsimError(f"unet: image {image} cannot be halved {depth} times: give a multiple of {2**depth}")
    return Example(
        model=UNet(channels=channels, classes=classes, width=width, depth=depth),
        inputs=(torch.rand(batch, channels, image, image),),
        target=torch.randint(classes, (batch, image, image)),
        loss=F.cross_entropy,
    )
