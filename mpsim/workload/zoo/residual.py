"""ResNet with bottleneck blocks (https://arxiv.org/abs/1512.03385; the stride is on the 3 × 3, as is usual now)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.workload.example import Example
from mpsim.workload.zoo.convolutional import classify_images

__all__ = ["Bottleneck", "ResNet", "resnet50"]

EXPANSION = 4
"""Channels out of a bottleneck for each inside it."""


class Bottleneck(nn.Module):  # type: ignore[misc]
    """1 × 1, 3 × 3 and 1 × 1 convolutions beside a shortcut, which is projected where the shape changes.

    Examples
    --------
    >>> Bottleneck(8, 4, stride=2)(torch.rand(2, 8, 6, 6)).shape
    torch.Size([2, 16, 3, 3])
    """

    def __init__(self, channels: int, inside: int, stride: int) -> None:
        super().__init__()
        outside = inside * EXPANSION
        self.conv1 = nn.Conv2d(channels, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [batch, 4 · inside, height / stride, width / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet(nn.Module):  # type: ignore[misc]
    """A 7 × 7 stem, rows of bottlenecks ``layer1`` …, average pooling and one linear layer.

    Examples
    --------
    >>> sum(p.numel() for p in ResNet(blocks=(3, 4, 6, 3), width=64, classes=1000).parameters())
    25557032
    """

    def __init__(self, *, blocks: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.depth = len(blocks)
        channels = width
        for i, count in enumerate(blocks):
            inside = width * 2**i
            strides = [1 if i == 0 else 2] + [1] * (count - 1)
            row = [Bottleneck(channels if j == 0 else inside * EXPANSION, inside, s) for j, s in enumerate(strides)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*row))
            channels = inside * EXPANSION
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes] of images [batch, 3, image, image]."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"layer{i}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def resnet50(batch: int, *, blocks: tuple[int, ...], image: int, width: int, classes: int) -> Example:
    """Return ResNet-50 on colour images.

    Examples
    --------
    >>> example = resnet50(2, blocks=(1, 1), image=32, width=4, classes=3)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 3])
    """
    model = ResNet(blocks=blocks, width=width, classes=classes)
    return classify_images(model, batch, channels=3, image=image, classes=classes)
