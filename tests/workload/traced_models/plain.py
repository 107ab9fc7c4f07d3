"""One plain PyTorch step of a case, and in what a trace of the case says otherwise."""

import contextlib
import functools
import io
import random
import statistics
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch.utils import _pytree as pytree

from mpsim.workload.trace import trace

BATCH = 4
KEPT = 0.01  # how far bytes kept for backward may be off


class Facts(NamedTuple):
    """What is the same of a step and of a true trace of it: bytes by parameter, by gradient, and kept for backward."""

    parameters: dict[str, int]
    gradients: dict[str, int]
    kept: int


class Case(NamedTuple):
    """A factory ``make(batch) -> (model, inputs[, target, loss])`` and the layers that its trace must have."""

    make: object
    least: int = 1
    layers: tuple[str, ...] = ()  # how the names of layers that must be there begin


def own_loss(output):
    """The loss of an output without one given: its `loss`, else the mean of its floating-point tensors' means."""
    found = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if found is not None:
        return found
    leaves = pytree.tree_leaves(vars(output) if hasattr(output, "__dict__") and not torch.is_tensor(output) else output)
    return torch.stack([x.mean() for x in leaves if torch.is_tensor(x) and x.is_floating_point()]).mean()


def call(model, inputs):
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def one_seed():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def plain_step(make):
    """Parameters, gradients after one real step, and unique bytes kept for backward beyond parameters and buffers."""
    one_seed()
    model, inputs, target, loss = (*make(BATCH), None, None)[:4]
    model.train()
    one_seed()
    kept = {}

    def pack(tensor):
        for part in _dense_parts(tensor):
            kept[part.untyped_storage().data_ptr()] = (part.untyped_storage().nbytes(), part)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = call(model, inputs)
        value = loss(output, target) if loss else own_loss(output)
    state = [part for t in (*model.parameters(), *model.buffers()) for part in _dense_parts(t)]
    own = {part.untyped_storage().data_ptr() for part in state}
    saved = sum(size for pointer, (size, _) in kept.items() if pointer not in own)
    value.backward()
    named = dict(model.named_parameters())
    gradients = {name: _nbytes(p) for name, p in named.items() if p.grad is not None}
    return Facts({name: _nbytes(p) for name, p in named.items()}, gradients, saved)


def facts_of(workload):
    """The same of a trace."""
    shards = [layer.shard() for layer in workload.layers]
    return Facts(
        {p.name: p.bytes for shard in shards for p in shard.parameters},
        {g.parameter: g.bytes for shard in shards for g in shard.gradients},
        sum(cost.saved_bytes for layer in workload.layers for cost in layer.costs if cost.microbatch == BATCH),
    )


def traced(make, repeats=1, **how):
    """Trace a case. Return the workload, and what of its models' state moved."""
    made = []

    @functools.wraps(make)
    def watched(batch):
        one = make(batch)
        if all(type(p) is torch.nn.Parameter and not hasattr(p, "fake_mode") for p in one[0].parameters()):
            made.append((one[0], _state_of(one[0])))
        return one

    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        workload = trace(watched, BATCH, repeats=repeats, warmup=1, **how)
    return workload, sorted({name for model, before in made for name in _moved(before, _state_of(model))})


def faults(case, repeats=1):
    """Say in what a trace of a case is not true; print how near its layers' sum is to the step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = plain_step(case.make)
    workload, moved = traced(case.make, repeats)
    names = [layer.name for layer in workload.layers]
    check = workload.checks[0]
    ratio = statistics.median(a / b for a, b in zip(check.layers_s, check.whole_s, strict=True))
    print(f"{len(names)} layers, sum / step {ratio:.2f} of {1e3 * statistics.median(check.whole_s):.2f} ms")
    found = _differences(facts_of(workload), expected)
    found += [f"no layer {name!r} in {names}" for name in case.layers if not any(n.startswith(name) for n in names)]
    if len(names) < case.least:
        found.append(f"layers {names}, {case.least} could be placed")
    found += [f"left changed: {name}" for name in moved[:3]]
    return found + list(check.differences)


def _differences(found, expected):
    wrong = []
    for what in ("parameters", "gradients"):
        a, b = ({_bare(name): size for name, size in getattr(one, what).items()} for one in (found, expected))
        wrong += [f"{what}: {name} {a.get(name)} B, PyTorch {b.get(name)}" for name in sorted({*a, *b})
                  if a.get(name) != b.get(name)][:3]  # fmt: skip
    if abs(found.kept - expected.kept) > KEPT * expected.kept:
        wrong.append(f"kept for backward {found.kept} B, PyTorch {expected.kept}")
    return wrong


def _dense_parts(tensor):
    """The tensors that hold the values of one: sparse, nested, or within a derivative that functorch takes."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout is torch.sparse_csr:
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.is_nested:
        return tensor._values, tensor._offsets
    if tensor._is_zerotensor() or hasattr(tensor, "fake_mode"):
        return ()
    return (tensor,)


def _bare(name):
    """A name without what a wrapper puts before it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _nbytes(tensor):
    """Bytes of a tensor's values; of a sparse one's as if it were dense."""
    return tensor.numel() * tensor.element_size()


def _state_of(model):
    tensors = [*model.named_parameters(), *model.named_buffers()]
    values = {name: t.detach().clone() for name, t in tensors if not torch.nn.parameter.is_lazy(t)}
    return values, {name: module.training for name, module in model.named_modules()}


def _moved(before, after):
    tensors = [name for name, t in before[0].items() if not _same(t, after[0][name])]
    return tensors + [f"{name}.training" for name, flag in before[1].items() if flag != after[1][name]]


def _same(a, b):
    if a.layout is not torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # nan is as nan
