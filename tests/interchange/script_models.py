"""Models that scripts of torch's train in tests: small, in double precision, of torch alone."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.workload.example import Example

WIDTH, HEADS, VOCABULARY, SEQUENCE = 16, 2, 24, 6


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x, angles):
        y = self.norm1(x)
        q, k, v = (one(y).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for one in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q * angles, k * angles, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """Blocks that each read what no block makes: angles of the positions."""

    def __init__(self, blocks, tied):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        angles = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)[:, None].cos()
        for block in self.blocks:
            x = block(x, angles)
        return self.head(self.norm(x))


STYLES = {
    "embed": "vocabulary",
    "blocks.*.[qkv]": "colwise",
    "blocks.*.out": "rowwise",
    "blocks.*.up": "colwise",
    "blocks.*.down": "rowwise",
    "head": "vocabulary",
}


def decoder(samples, blocks=4, tied=False):
    """Return a decoder; its ranks share heads and tokens."""
    model = Decoder(blocks, tied).double()
    tokens, target = torch.randint(VOCABULARY, (2, samples, SEQUENCE))
    loss = lambda logits, target: F.cross_entropy(logits.flatten(0, 1), target.flatten())  # noqa: E731
    return Example(
        model=model, inputs=(tokens,), target=target, loss=loss, tensor_parallel=STYLES, shared={"heads": HEADS}
    )


def residual(samples):
    """Return a model of which two tensors cross each cut, as a tuple."""
    return _Residual(), torch.rand(samples, 4), torch.rand(samples, 4), nn.functional.mse_loss


class _Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        y = self.first(x)
        return self.third(self.second(y).relu() + y)
