"""Small models that each hold one difficulty of cutting."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class Functional(nn.Module):
    """Activations and the softmax are function calls: four layers, not eight."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        return F.log_softmax(self.fc2(F.relu(self.fc1(x))), dim=1)


class Residual(nn.Module):
    """Batch norm, an in-place ReLU and a skip, as in a ResNet."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.norm(self.conv(x))
        out += x
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.layer = nn.Sequential(Residual(4), Residual(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.flatten(F.adaptive_avg_pool2d(self.layer(self.stem(x)), 1), 1))


class SmallUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)
        self.up2, self.up1 = nn.Conv2d(8, 2, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        one = F.relu(self.down1(x))
        two = F.relu(self.down2(F.max_pool2d(one, 2)))
        out = F.relu(self.middle(F.max_pool2d(two, 2)))
        out = F.relu(self.up2(torch.cat([F.interpolate(out, scale_factor=2), two], 1)))
        return self.up1(torch.cat([F.interpolate(out, scale_factor=2), one], 1))


class Tied(nn.Module):
    """Embedding and head share one weight; the mask is made once and read by both blocks."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(Gated(4) for _ in range(2))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        mask = torch.tril(torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool))
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, mask):
        scores = (self.a(x) @ x.transpose(1, 2)).masked_fill(~mask, -1e4).softmax(-1)
        return x + self.b(scores @ x)


class Shared(nn.Module):
    """One module called three times."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.cell(x))
        return self.head(x)


class Nested(nn.Module):
    """Two inputs by keyword, a unit with two outputs, and a nested result of which the loss uses a part."""

    def __init__(self):
        super().__init__()
        self.split, self.left, self.right = Twice(), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x, *, scale):
        a, b = self.split(x)
        left, right = self.left(a) * scale, self.right(b)
        return {"sum": left + right, "parts": (left, [right, a])}


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x):
        return self.fc(x).chunk(2, dim=1)


class NoGradient(nn.Module):
    """A region without gradient whose result the next layer reads."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        y = self.a(x)
        with torch.no_grad():
            scale = y.abs().mean(1, keepdim=True)
        return self.b(y / scale) * scale
