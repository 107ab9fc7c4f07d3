"""LeNet-5 and VGG-16: convolutions in a row, then fully connected layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.errors import MpsimError
from mpsim.workload.example import Example

__all__ = ["VGG", "LeNet5", "classify_images", "lenet5", "vgg16"]

VGG16_CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Convolutions of each block of configuration D, https://arxiv.org/abs/1409.1556, Table 1."""


def classify_images(model: nn.Module, batch: int, *, channels: int, image: int, classes: int) -> Example:
    """Return `model` with random square images, random labels and cross-entropy.

    Examples
    --------
    >>> classify_images(nn.Identity(), 2, channels=3, image=8, classes=10).inputs[0].shape
    torch.Size([2, 3, 8, 8])
    """
    return Example(
        model=model,
        inputs=(torch.rand(batch, channels, image, image),),
        target=torch.randint(classes, (batch,)),
        loss=F.cross_entropy,
    )


class LeNet5(nn.Module):  # type: ignore[misc]
    """LeCun et al. 1998 in its modern form: 6C5, pool, 16C5, pool, 120, 84, 10; ReLU, max-pooling.

    Examples
    --------
    >>> sum(p.numel() for p in LeNet5(classes=10).parameters())
    61706
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes] of images [batch, 1, 28, 28]."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


def _convolutions(width: int) -> nn.Sequential:
    """Return the convolutional half of VGG-16; pooling halves the image after each block."""
    modules: list[nn.Module] = []
    channels = 3
    for block, count in enumerate(VGG16_CONVOLUTIONS):
        features = width * min(2**block, 8)
        for _ in range(count):
            modules += [nn.Conv2d(channels, features, 3, padding=1), nn.ReLU()]
            channels = features
        modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules)


class VGG(nn.Module):  # type: ignore[misc]
    """VGG-16; `width` is the channels of its first block, `fully_connected` the width of its head.

    Examples
    --------
    >>> sum(isinstance(module, nn.Conv2d) for module in VGG(width=2, fully_connected=8, classes=3).modules())
    13
    """

    def __init__(self, *, width: int, fully_connected: int, classes: int) -> None:
        super().__init__()
        self.features = _convolutions(width)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(width * 8 * 7 * 7, fully_connected),
            nn.ReLU(),
            nn.Linear(fully_connected, fully_connected),
            nn.ReLU(),
            nn.Linear(fully_connected, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes] of images [batch, 3, image, image]."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def lenet5(batch: int, *, classes: int) -> Example:
    """Return LeNet-5 on 28 × 28 grey images.

    Examples
    --------
    >>> lenet5(2, classes=10).inputs[0].shape
    torch.Size([2, 1, 28, 28])
    """
    return classify_images(LeNet5(classes), batch, channels=1, image=28, classes=classes)


def vgg16(batch: int, *, image: int, width: int, fully_connected: int, classes: int) -> Example:
    """Return VGG-16 on colour images.

    Examples
    --------
    >>> example = vgg16(1, image=32, width=2, fully_connected=8, classes=3)
    >>> example.model(*example.inputs).shape
    torch.Size([1, 3])
    """
    if image < 32:
        raise MpsimError(f"vgg16: image {image} is smaller than 32, which five poolings halve to one")
    model = VGG(width=width, fully_connected=fully_connected, classes=classes)
    return classify_images(model, batch, channels=3, image=image, classes=classes)
