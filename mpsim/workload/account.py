"""What a cut's units hold and do, from one step that is not timed: saved bytes, FLOPs, gradients, shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mpsim.workload.graph import Cut, Unit
from mpsim.workload.run import Piece, forward

__all__ = ["Account", "UnitAccount", "account", "attention_flops"]


@dataclass(slots=True)
class UnitAccount:
    """One unit's part of an account.

    Examples
    --------
    >>> UnitAccount(saved_bytes=4).flops
    0
    """

    saved_bytes: int = 0
    flops: int = 0
    gradients: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Account:
    """What one step of a cut keeps, computes and sends.

    Attributes
    ----------
    units : list of UnitAccount
        In execution order.
    shapes : dict of str to (tuple of int, str)
        Shape and dtype of every value between units.
    saved_by : dict of str to str
        The first unit that keeps a value's memory for backward.
    sent_back : set of str
        The values for which a gradient comes back.

    Examples
    --------
    >>> Account().sent_back
    set()
    """

    units: list[UnitAccount] = field(default_factory=list)
    shapes: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    saved_by: dict[str, str] = field(default_factory=dict)
    sent_back: set[str] = field(default_factory=set)


def _sdpa_on_cpu(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def attention_flops() -> dict[Any, Any]:
    """Return the FLOP formula that PyTorch's counter lacks: attention on a CPU (causality not subtracted, as there)."""
    return {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_on_cpu}


def account(cut: Cut, feeds: Mapping[str, Any], parameters: Mapping[str, Any], buffers: Mapping[str, Any]) -> Account:
    """Run one step unit by unit, on real or fake tensors, and note what each unit keeps and sends.

    Kept for backward are unique storages, without parameters and buffers, each counted at the first unit in
    execution order that keeps it.

    Examples
    --------
    >>> from mpsim.workload.example import Example
    >>> from mpsim.workload.graph import capture
    >>> model = torch.nn.Linear(4, 2)
    >>> cut = capture(Example(model=model, inputs=(torch.ones(3, 4),)))
    >>> found = account(cut, {"input": torch.ones(3, 4)}, dict(model.named_parameters()), {})
    >>> found.units[0].saved_bytes, found.units[0].flops, found.units[0].gradients
    (48, 48, ['bias', 'weight'])
    """
    saved = _Saved([*parameters.values(), *buffers.values()])
    values, pieces, found = dict(feeds), [], Account()
    for unit in cut.units:
        entry = UnitAccount()
        counter = FlopCounterMode(display=False, custom_mapping=attention_flops())
        with saved.during(unit.name), counter:
            pieces.append(forward(unit, values))
        entry.saved_bytes = saved.bytes.get(unit.name, 0)
        entry.flops = int(counter.get_total_flops())
        found.units.append(entry)
    for name, value in values.items():
        found.shapes[name] = (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        holder = saved.first.get(value.untyped_storage()._cdata)
        if holder:
            found.saved_by[name] = holder
    _account_backward(cut, pieces, parameters, found)
    return found


class _Saved:
    """The storages that autograd keeps, by the unit that first kept each."""

    def __init__(self, state: list[Any]) -> None:
        self.state = {item.untyped_storage()._cdata for item in state}
        self.first: dict[int, str] = {}
        self.bytes: dict[str, int] = {}
        self.alive: list[Any] = []  # an address must not be given out again before the step ends

    def during(self, unit: str) -> Any:
        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.state and storage._cdata not in self.first:
                self.first[storage._cdata] = unit
                self.bytes[unit] = self.bytes.get(unit, 0) + storage.nbytes()
                self.alive.append(storage)
            return tensor.detach()

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def _account_backward(cut: Cut, pieces: list[Piece], parameters: Mapping[str, Any], found: Account) -> None:
    """Run backward with a hook on each parameter, which tells the order in which gradients become ready."""
    gradients: dict[str, Any] = {cut.loss: None}
    for unit, piece, entry in zip(reversed(cut.units), reversed(pieces), reversed(found.units), strict=True):
        hooks = _watch(unit, parameters, entry.gradients)
        received = [(value, gradients.pop(name)) for name, value in piece.outputs if name in gradients]
        if received:
            torch.autograd.backward([value for value, _ in received], [gradient for _, gradient in received])
        for hook in hooks:
            hook.remove()
        for name, value in piece.inputs:
            if value.grad is not None:
                gradients[name] = value.grad + gradients[name] if name in gradients else value.grad
                found.sent_back.add(name)
        piece.inputs, piece.outputs = [], []
    for parameter in parameters.values():
        parameter.grad = None


def _watch(unit: Unit, parameters: Mapping[str, Any], ready: list[str]) -> list[Any]:
    def watch(name: str) -> Any:
        return parameters[name].register_post_accumulate_grad_hook(lambda _: ready.append(name))

    return [watch(name) for name in unit.parameters if parameters[name].requires_grad]
