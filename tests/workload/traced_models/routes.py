"""Paths that are chosen as the model runs, and state that it moves."""

import copy
import random
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .more import Plain, more, rows


class _ByKey(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.heads = nn.Linear(16, 16), nn.ModuleDict({k: nn.Linear(16, 4) for k in ("a", "b", "c")})

    def forward(self, x, task="b"):
        return self.heads[task](torch.relu(self.trunk(x)))


@more(2)
def head_chosen_by_key(batch):
    return _ByKey(), {"x": rows(batch), "task": "c"}


@more(1)
def depth_drawn_at_random(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.head = nn.ModuleList(nn.Linear(16, 16) for _ in range(6)), nn.Linear(16, 4)

        def forward(self, x):
            for block in self.blocks:
                if torch.rand(()) < 0.7 and random.random() < 0.9:
                    x = x + torch.relu(block(x))
            return self.head(x)

    return Model(), rows(batch)


@more(1)
def depth_drawn_by_an_own_generator(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.head = nn.ModuleList(nn.Linear(16, 16) for _ in range(6)), nn.Linear(16, 4)
            self.draw = torch.Generator().manual_seed(3)
            self.other = random.Random(3)

        def forward(self, x):
            for block in self.blocks:
                if torch.rand((), generator=self.draw) < 0.6 and self.other.random() < 0.9:
                    x = x + torch.relu(block(x))
            return self.head(x)

    return Model(), rows(batch)


@more(2)
def layer_every_other_step(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.extra = nn.Linear(16, 16), nn.Linear(16, 4), nn.Linear(16, 16)
            self.steps = 0

        def forward(self, x):
            self.steps += 1
            x = torch.relu(self.one(x))
            if self.steps % 2:
                x = x + self.extra(x)
            return self.two(x)

    return Model(), rows(batch)


@more(2)
def layer_by_a_counter_in_a_buffer(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.extra = nn.Linear(16, 16), nn.Linear(16, 4), nn.Linear(16, 16)
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))

        def forward(self, x):
            self.steps += 1
            x = torch.relu(self.one(x))
            if self.steps % 3 != 1:
                x = x + self.extra(x)
            return self.two(x)

    return Model(), rows(batch)


class _Cond(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        h = self.one(x)
        h = torch.cond(h.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (h,))
        return self.two(h)


@more(2)
def branch_by_cond(batch):
    return _Cond(), rows(batch)


class _Halting(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.halt, self.head = nn.Linear(16, 16), nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, x):
        total = torch.zeros(len(x), 1)
        while bool((total < 2).any()):
            x = torch.tanh(self.cell(x))
            total = total + torch.sigmoid(self.halt(x))
        return self.head(x) + total


@more(5)
def loop_until_all_halt(batch):
    return _Halting(), rows(batch)


class _Follows(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = Plain(32, 2)
        self.teacher = torch.optim.swa_utils.AveragedModel(self.student, avg_fn=lambda a, b, n: 0.9 * a + 0.1 * b)
        self.teacher.requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            self.teacher.update_parameters(self.student)
            wanted = self.teacher(x)
        return F.mse_loss(self.student(x), wanted)


@more(2)
def averaged_teacher(batch):
    return _Follows(), rows(batch, 32)


@more(2)
def norm_frozen_in_evaluation(batch):
    class Model(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()
            return self

    model = Model(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(8 * 36, 4))
    return model, torch.randn(batch, 3, 8, 8)


@more(3)
def lazy_modules(batch):
    model = nn.Sequential(
        nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(16), nn.LazyLinear(4)
    )
    return model, torch.randn(batch, 3, 8, 8)


class _Carried(nn.Module):
    """The hidden state of the last step goes into the next, cut off from its graph."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(50, 16), nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 50)
        self.state = None

    def forward(self, ids):
        out, state = self.rnn(self.embed(ids), self.state)
        self.state = tuple(one.detach() for one in state)
        return self.head(out)


@more(3)
def hidden_state_carried_on(batch):
    return _Carried(), torch.randint(0, 50, (batch, 8))


class _PackedState(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(50, 16), nn.GRU(16, 16, 2, bidirectional=True), nn.Linear(32, 5)
        self.start = nn.Parameter(torch.zeros(4, 1, 16))

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embed(ids).transpose(0, 1), lengths, enforce_sorted=False)
        out, _ = self.rnn(packed, self.start.expand(-1, len(ids), -1).contiguous())
        return self.head(pad_packed_sequence(out)[0])


@more(3)
def packed_rows_and_a_learned_state(batch):
    return _PackedState(), (torch.randint(0, 50, (batch, 8)), torch.arange(batch) % 6 + 2)


class _Memory(nn.Module):
    """A bank of the last outputs, a plain tensor that forward writes into."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.bank = nn.Linear(16, 16), nn.Linear(16, 16), torch.zeros(8, 16)

    def forward(self, x):
        h = self.one(x)
        out = self.two(torch.relu(h) + self.bank.mean(0))
        self.bank[: len(x)] = h.detach()
        return out


@more(2)
def bank_in_a_plain_tensor(batch):
    return _Memory(), rows(batch)


@more(2)
def input_normed_in_place(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            x.sub_(1).mul_(3)
            return self.two(torch.relu(self.one(x)))

    return Model(), rows(batch)


class _Teacher(nn.Module):
    """`how` moves the teacher and says what the student is to learn."""

    def __init__(self, how):
        super().__init__()
        self.teacher, self.student, self.how = nn.Linear(16, 16).requires_grad_(False), nn.Linear(16, 16), how

    def forward(self, x):
        return F.mse_loss(self.student(x), self.how(self, x))


@more(2)
def teacher_moved_by_its_data(batch):
    def how(model, x):
        for old, new in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
            old.data.mul_(0.9).add_(new.data, alpha=0.1)
        with torch.no_grad():
            return model.teacher(x)

    return _Teacher(how), rows(batch)


@more(2)
def teacher_in_inference_mode(batch):
    def how(model, x):
        with torch.inference_mode():
            wanted = model.teacher(x)
        return wanted.clone()

    return _Teacher(how), rows(batch)


@more(1)
def teacher_copied_in_forward(batch):
    return _Teacher(lambda model, x: copy.deepcopy(model.student).requires_grad_(False)(x)), rows(batch)


@more(2)
def layer_called_in_another_thread(batch):
    pool = ThreadPoolExecutor(1)
    return Plain(call=lambda layer, x: pool.submit(layer, x).result()), rows(batch)
