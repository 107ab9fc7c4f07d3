"""A mixture of experts on real ranks, written apart from the library: tokens go where the router sends them."""

import copy

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._functional_collectives import all_to_all_single
from transformers import MixtralConfig, MixtralForCausalLM

EXPERTS, TOP_K, HIDDEN, SEQ, VOCAB = 4, 2, 16, 8, 32


def mixtral(batch):
    """Return a small Mixtral in double precision, and tokens."""
    torch.manual_seed(0)
    config = MixtralConfig(
        num_hidden_layers=2, hidden_size=HIDDEN, num_attention_heads=2, num_key_value_heads=1, intermediate_size=24,
        num_local_experts=EXPERTS, num_experts_per_tok=TOP_K, vocab_size=VOCAB, max_position_embeddings=SEQ,
        use_cache=False, experts_implementation="eager", attn_implementation="eager",
    )  # fmt: skip
    return MixtralForCausalLM(config).double(), torch.randint(VOCAB, (batch, SEQ))


def loss_of(model, tokens):
    logits = model(input_ids=tokens, use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


class Routed(nn.Module):
    """One rank's experts, tokens of all ranks sent to them and their outputs sent back."""

    def __init__(self, whole, group, rank, ranks, theirs=None):
        super().__init__()
        self.group, self.ranks, self.held, self.theirs = group, ranks, EXPERTS // ranks, theirs
        self.experts = copy.deepcopy(whole)
        self.experts.num_experts = self.held
        for name, weight in whole.named_parameters():
            setattr(self.experts, name, nn.Parameter(weight.detach().chunk(ranks)[rank].clone()))

    def forward(self, hidden, chosen, shares):
        to = chosen.flatten()
        order = to.argsort(stable=True)
        counts = torch.bincount(to, minlength=EXPERTS)
        told = all_to_all_single(counts, None, None, self.group)
        told = torch.tensor(told.tolist())
        theirs = (self.theirs(counts) if self.theirs else told).view(self.ranks, self.held)
        sent = counts.view(self.ranks, self.held).sum(1).tolist()
        got = theirs.sum(1).tolist()
        rows = all_to_all_single(hidden[order // TOP_K], got, sent, self.group)
        own = torch.cat([torch.arange(self.held).repeat_interleave(each) for each in theirs])
        outputs = self.experts(rows, own[:, None], torch.ones(len(own), 1, dtype=hidden.dtype))
        back = all_to_all_single(outputs, sent, got, self.group)
        weighted = back * shares.flatten()[order, None]
        return torch.zeros_like(hidden).index_add(0, order // TOP_K, weighted)


def routed(model, group, rank, ranks, theirs=None):
    """Put one rank's experts in the place of each layer's."""
    for layer in model.model.layers:
        layer.mlp.experts = Routed(layer.mlp.experts, group, rank, ranks, theirs)
    return model


def check_gradients(rank, ranks, meeting):
    """Stand as one of real ranks: gradients are the whole model's on the whole batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    whole, tokens = mixtral(2 * ranks)
    loss_of(whole, tokens).backward()
    model = routed(copy.deepcopy(whole), dist.group.WORLD, rank, ranks)
    model.zero_grad()
    loss_of(model, tokens.chunk(ranks)[rank]).backward()
    gradients = {name.replace("experts.experts", "experts"): p.grad for name, p in model.named_parameters()}
    for name, parameter in whole.named_parameters():
        found, expected = gradients[name], parameter.grad
        if ".experts." in name:
            expected = expected.chunk(ranks)[rank]  # nobody else has these: all ranks' tokens have come here
        else:
            dist.all_reduce(found)
        torch.testing.assert_close(found / ranks, expected)
        assert expected.abs().sum() > 0
    dist.destroy_process_group()
