"""What the layers of a step hold, compute and send, from one step that is not timed.

Every operation is seen as it runs. A value is known by its memory (storage, place in it, shape), so that views and
in-place work are what they are; it goes from the layer that made it to each later layer that reads it. What autograd
keeps is what it hands to be kept: unique storages, without parameters and buffers, each counted at the layer that
keeps it first.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from mpsim.workload.cores import Cores
from mpsim.workload.example import output_tensors
from mpsim.workload.operators import tensors_of, written_by
from mpsim.workload.stand_in import larger
from mpsim.workload.watch import BACKWARD, FORWARD, Graph

__all__ = ["Account", "LayerAccount", "Value", "memory_of", "norm"]

_CASTS = ("aten::_to_copy", "aten::to", "aten::clone", "aten::contiguous")
_SHAPE_ONLY = ("_like", "new_empty", "new_zeros", "new_ones", "new_full", "sym_size", "_assert_tensor_metadata")


@dataclass(slots=True, eq=False)
class Value:
    """A tensor that one layer makes, or the model is fed, and others may read.

    Attributes
    ----------
    producer : int
        The layer that makes it; -1 for what is fed.
    name : str
        Of the operation that makes it, or of the input.
    shape, dtype
        Its shape and type.
    readers : dict of int to list
        For each later layer that reads it where in the autograd graph it then stood.

    Examples
    --------
    >>> Value(producer=-1, name="input", shape=(2, 3), dtype="float32").readers
    {}
    """

    producer: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    storage: int = 0
    readers: dict[int, list[tuple[Any, int]]] = field(default_factory=dict)
    output: bool = False
    target: bool = False
    sent_back: bool = False
    saved_by: int = -1


@dataclass(slots=True)
class LayerAccount:
    """One layer's part of an account.

    Examples
    --------
    >>> LayerAccount(saved_bytes=4).flops
    0
    """

    parameters: dict[str, None] = field(default_factory=dict)  # read in forward, in order
    buffers: dict[str, None] = field(default_factory=dict)
    gradients: list[str] = field(default_factory=list)
    saved_bytes: int = 0
    flops: int = 0
    forward_transient_bytes: int = 0
    backward_transient_bytes: int = 0
    cores: Cores = field(default_factory=Cores)  # of attention


class Account(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
    """While active, and told of the step by a `Watch`, note what each layer holds, computes and sends.

    Parameters
    ----------
    layers : int
        How many there are.
    parameters, buffers : mapping of str to torch.Tensor
        The model's, by name.
    feeds : mapping of str to torch.Tensor
        Inputs and target, by name; a target's begins with ``target`` or ``label``.
    flops : callable
        Returns the floating-point operations counted so far.
    seconds : callable or None
        Returns what the operations since it was last asked cost; None: they are timed as they run.
    sized : callable
        Turns the bytes of a piece of memory into what is added up: at several micro-batches at once, say.

    Examples
    --------
    >>> from mpsim.workload.watch import Watch, calls_of
    >>> model, batch = torch.nn.Linear(4, 2), torch.ones(3, 4)
    >>> step = lambda: model(batch).mean().backward()
    >>> account = Account(1, dict(model.named_parameters()), {}, {"input": batch})
    >>> calls = calls_of(model, step)
    >>> with account:
    ...     Watch(model, calls, account).run(step)
    >>> account.layers[0].saved_bytes, account.layers[0].gradients, [one.name for one in account.values if one.output]
    (48, ['bias', 'weight'], ['addmm'])
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        layers: int,
        parameters: Mapping[str, Any],
        buffers: Mapping[str, Any],
        feeds: Mapping[str, Any],
        flops: Callable[[], Any] = lambda: 0,
        seconds: Callable[[], Any] | None = None,
        sized: Callable[[int], Any] = int,
    ) -> None:
        super().__init__()
        self.layers = [LayerAccount() for _ in range(layers)]
        self.values: list[Value] = []
        self.loss = float("nan")
        self.gradient_norms: dict[str, float] = {}
        self.kept_by: dict[int, int] = {}
        self.dropped: dict[str, None] = {}
        self.strangers: dict[int, int] = {}  # parameters that get a gradient and are not the model's, and their bytes
        self._flops = flops
        self._counted: Any = 0
        self._seconds, self._sized = seconds, sized
        self._alone = torch.get_num_threads() == 1  # then what other programs take does not count
        self._phase, self._now = "", 0
        self._parameters = parameters
        self._state = _State(parameters, buffers)
        self._maker: dict[int, int] = {}
        self._known: dict[int, dict[tuple[Any, ...], Value]] = {}
        self._objects: dict[int, tuple[Any, Value]] = {}
        self._watched: dict[int, Any] = {}
        self._memory = _Memory(parameters)
        self._alive: list[Any] = []
        self._saving: Any = None
        self._ready: list[str] = []
        for name, tensor in feeds.items():
            self._feed(name, tensor)

    def at(self, phase: str, layer: int) -> None:
        """A layer begins a pass."""
        if self._phase in (FORWARD, BACKWARD):
            self._memory.end(self.layers[self._now], self._phase)
        if self._phase == FORWARD:
            self.layers[self._now].flops += self._flops() - self._counted
            self._settle()
        self._counted = self._flops()
        if phase == FORWARD and self._saving is None:
            self._saving = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
            self._saving.__enter__()
        elif phase != FORWARD:
            self._saved()
        if self._phase == BACKWARD and phase != BACKWARD:
            self._gradients()
        self._phase, self._now = phase, layer
        if phase in (FORWARD, BACKWARD):
            self._memory.begin()
            if self._seconds is not None:
                self._seconds()

    def __exit__(self, *failure: Any) -> Any:
        """Leave nothing of itself behind, wherever a run has failed."""
        self._saved()
        return super().__exit__(*failure)

    def _saved(self) -> None:
        """Keep no more of what is saved for backward."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.__exit__(None, None, None)

    def graph(self, graph: Graph) -> None:
        """Tell which values a gradient comes back for, and in which order gradients become ready."""
        root = graph.roots[0].detach()
        self.loss = float(root) if root.numel() == 1 and not _is_fake(root) else float("nan")
        for value in self.values:
            edges = [(layer, *place) for layer, places in value.readers.items() for place in places]
            value.sent_back = any(edge in graph.read_by for edge in edges)
            for places in value.readers.values():
                places.clear()
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        for layer, leaves in graph.leaves.items():
            self.layers[layer].gradients = [names[id(leaf)] for leaf in leaves if id(leaf) in names]
            self.strangers.update(
                {id(leaf): leaf.nbytes for leaf in leaves if type(leaf) is Parameter and id(leaf) not in names}
            )
        self._alive.clear()
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: self._ready.append(name))
            for name, parameter in self._parameters.items()
            if parameter.requires_grad
        ]

    def returned(self, output: Any) -> None:
        """Mark what the model returned; `dropped` names what in it is no tensor and holds some, such as a cache."""
        for tensor in output_tensors(output, self.dropped):
            for part in _parts(tensor):
                value = self._value(part)
                if value is not None:
                    value.output = True

    def _gradients(self) -> None:
        """Note the gradients that backward left, those of a graph within the graph too, and let go of the hooks."""
        for hook in self._hooks:
            hook.remove()
        listed = {name for layer in self.layers for name in layer.gradients}
        for name in self._ready:
            if name not in listed:
                home = next((layer for layer in self.layers if name in layer.parameters), self.layers[0])
                home.gradients.append(name)
        self.gradient_norms = {
            name: 0.0 if _is_fake(parameter) else norm(parameter.grad)
            for name, parameter in self._parameters.items()
            if parameter.grad is not None
        }
        for layer in self.layers:
            layer.gradients = [name for name in layer.gradients if name in self.gradient_norms]

    def _keep(self, tensor: Any) -> Any:
        for storage in memory_of(tensor):
            size = self._sized(storage.nbytes())
            self.layers[self._now].cores.keep(storage._cdata, size)
            if storage._cdata not in self._state and storage._cdata not in self.kept_by:
                self.kept_by[storage._cdata] = self._now
                self.layers[self._now].saved_bytes += size
                self._alive.append(storage)  # until the graph is known, no other may take its address
                for value in self._known.get(storage._cdata, {}).values():
                    value.saved_by = self._now
        return tensor

    def _feed(self, name: str, tensor: Any) -> None:
        for part in _parts(tensor):
            self._feed_part(name, part)

    def _feed_part(self, name: str, tensor: Any) -> None:
        storage = _storage(tensor)
        if storage is None or storage._cdata in self._state:
            return
        value = Value(-1, name, tuple(tensor.shape), _dtype(tensor), storage._cdata)
        value.target = name.split(".")[0] in ("target", "labels", "label")
        self.values.append(value)
        self._maker.setdefault(storage._cdata, -1)
        self._known.setdefault(storage._cdata, {}).setdefault(_place(tensor), value)
        self._watch(storage, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._phase != FORWARD:
            result = func(*args, **kwargs)
            if self._phase == BACKWARD:
                for tensor in tensors_of(result):
                    for part in _parts(tensor):
                        self._allocated(part)
            return result
        given = list(tensors_of(args)) + (list(tensors_of(kwargs)) if kwargs else [])
        name = _name(func)
        written = written_by(func, args, kwargs)
        keeps_state = any(self._state.names(tensor) for tensor in written)
        if not name.endswith(_SHAPE_ONLY):
            for tensor in given:
                for part in _parts(tensor):
                    self._read(part, tensor, keeps_state)
        self._settle()
        began_s = self._clock_s()
        result = func(*args, **kwargs)
        self._time(name, given, result, self._clock_s() - began_s)
        for tensor in written:
            for part in _parts(tensor):
                self._wrote(part, name)
        sources = self._sources(func, given)
        for tensor in tensors_of(result):
            for part in _parts(tensor):
                self._made(part, name, sources)
        return result

    def _time(self, name: str, given: list[Any], result: Any, seconds: float) -> None:
        """Tell of an operation what it read, made and took, for the attention cores among them."""
        cores = self.layers[self._now].cores
        read, made = (
            [storage._cdata for tensor in tensors for storage in memory_of(tensor)]
            for tensors in (given, tensors_of(result))
        )
        cores.ran(name, read, made)
        if self._seconds is None:
            cores.took(seconds)

    def _settle(self) -> None:
        """Let the operation before this one have what it cost, where that is known only now."""
        if self._seconds is not None:
            self.layers[self._now].cores.took(self._seconds())

    def _clock_s(self) -> float:
        if self._memory.cuda:
            torch.cuda.synchronize(self._memory.device)
        return time.thread_time() if self._alone else time.perf_counter()

    def _sources(self, func: Any, given: list[Any]) -> tuple[Any, ...]:
        """A parameter's names where an operation only casts one: its image, such as autocast's, is state as well."""
        if len(given) == 1 and getattr(getattr(func, "_schema", None), "name", "") in _CASTS:
            return self._state.names(given[0])
        return ()

    def _read(self, tensor: Any, whole: Any, keeps_state: bool) -> None:
        """A tensor is read, which is the whole or one of those that it wraps."""
        names = self._state.names(tensor)
        if names:
            if not keeps_state:  # a moving average reads what it follows: that is no use of it
                layer = self.layers[self._now]
                for kind, name in names:
                    (layer.parameters if kind == "parameter" else layer.buffers)[name] = None
            return
        value = self._value(tensor)
        if value is not None and value.producer != self._now:
            places = value.readers.setdefault(self._now, [])
            if whole.grad_fn is not None and (tensor.is_floating_point() or tensor.is_complex()):
                places.append((whole.grad_fn, whole.output_nr))

    def _value(self, tensor: Any) -> Value | None:
        """Return what is known of a tensor's memory, as it is read: another view of it is a value of its own."""
        storage = _storage(tensor)
        if storage is None or storage._cdata not in self._maker:
            return None
        known = self._known.setdefault(storage._cdata, {})
        held = self._objects.get(id(tensor))
        if held is not None and held[0]() is tensor and held[1] in known.values():
            return held[1]
        place = _place(tensor)
        if place not in known:
            known[place] = self._new(self._maker[storage._cdata], "view", tensor, storage)
        return known[place]

    def _new(self, producer: int, name: str, tensor: Any, storage: Any) -> Value:
        value = Value(producer, name, tuple(tensor.shape), _dtype(tensor), storage._cdata)
        value.saved_by = self.kept_by.get(storage._cdata, -1)
        self.values.append(value)
        return value

    def _wrote(self, tensor: Any, name: str) -> None:
        """What a layer writes into is made anew by it, in every view."""
        storage = _storage(tensor)
        if storage is None or storage._cdata in self._state:
            return
        if self._maker.get(storage._cdata) != self._now:
            self._maker[storage._cdata] = self._now
            self._known[storage._cdata] = {}

    def _made(self, tensor: Any, name: str, sources: tuple[Any, ...]) -> None:
        storage = _storage(tensor)
        if storage is None or storage._cdata in self._state:
            return
        if sources:
            self._state.alias(storage, sources)
            self._allocated(tensor)
            return
        self._allocated(tensor)
        self._maker.setdefault(storage._cdata, self._now)
        known = self._known.setdefault(storage._cdata, {})
        place = _place(tensor)
        value = known.get(place)
        if value is None or value.producer != self._now:  # a view that several layers make is each one's own
            value = self._new(self._now, name, tensor, storage)
            if place in known:
                known[(*place, self._now)] = value
            else:
                known[place] = value
        self._objects[id(tensor)] = (weakref.ref(tensor), value)

    def _allocated(self, tensor: Any) -> None:
        storage = _storage(tensor)
        if storage is not None and storage._cdata not in self._watched and storage._cdata not in self._state:
            self._watch(storage, self._sized(storage.nbytes()))

    def _watch(self, storage: Any, size: Any) -> None:
        """Count memory from here until it is freed; its address may then be another's."""
        number = storage._cdata
        self._memory.add(size)

        def freed(_: Any) -> None:
            self._memory.add(-size)
            for table in (self._watched, self._maker, self._known):
                table.pop(number, None)
            self._state.forget(number)

        self._watched[number] = weakref.ref(storage, freed)


class _State:
    """Which memory is the model's own: its parameters and buffers, and casts of them."""

    def __init__(self, parameters: Mapping[str, Any], buffers: Mapping[str, Any]) -> None:
        self.own: dict[int, list[tuple[int, int, tuple[str, str]]]] = {}
        self.images: dict[int, tuple[Any, ...]] = {}
        self.held: list[Any] = []
        for kind, tensors in (("parameter", parameters), ("buffer", buffers)):
            for name, tensor in tensors.items():
                dense = tensor.layout is torch.strided
                start, end = _extent(tensor) if dense else (0, tensor.numel())
                for storage in memory_of(tensor):
                    if storage.nbytes():
                        self.own.setdefault(storage._cdata, []).append((start, end, (kind, name)))
                        self.held.append(storage)

    def __contains__(self, number: int) -> bool:
        return number in self.own

    def names(self, tensor: Any) -> tuple[Any, ...]:
        """Return (kind, name) of the parameters and buffers that a tensor is, or is a part or cast of."""
        storage = _storage(tensor)
        if storage is None:
            return ()
        parts = self.own.get(storage._cdata)
        if parts is None:
            return self.images.get(storage._cdata, ())
        if len(parts) == 1:
            return (parts[0][2],)
        start, end = _extent(tensor)
        return tuple(name for first, last, name in parts if first < end and start < last)

    def alias(self, storage: Any, names: tuple[Any, ...]) -> None:
        self.images[storage._cdata] = names

    def forget(self, number: int) -> None:
        self.images.pop(number, None)


class _Memory:
    """Memory held at each moment: counted, or on CUDA the allocator's."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        on_cuda = [one.device for one in parameters.values() if one.is_cuda and not _is_fake(one)]
        self.cuda = bool(on_cuda)
        self.device = on_cuda[0] if on_cuda else None
        self.parameters = parameters
        self.now: Any = 0
        self.most = self.start = self.now
        self.gradients = 0

    def add(self, size: Any) -> None:
        self.now += size
        self.most = larger(self.most, self.now)

    def begin(self) -> None:
        if self.cuda:
            self.now = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        self.start = self.most = self.now
        self.gradients = self._gradient_bytes()

    def end(self, layer: LayerAccount, phase: str) -> None:
        if self.cuda:
            self.most = torch.cuda.max_memory_allocated(self.device)
        if phase == FORWARD:
            peak = self.most - self.start - layer.saved_bytes
            layer.forward_transient_bytes = larger(layer.forward_transient_bytes, peak)
        else:
            peak = self.most - self.start - (self._gradient_bytes() - self.gradients)
            layer.backward_transient_bytes = larger(layer.backward_transient_bytes, peak)

    def _gradient_bytes(self) -> int:
        return sum(p.grad.nbytes for p in self.parameters.values() if p.grad is not None and not p.grad.is_sparse)


def _parts(tensor: Any) -> list[Any]:
    """Return the tensors that one wraps, such as the values and offsets of a nested one; else itself."""
    if not is_traceable_wrapper_subclass(tensor) or _is_fake(tensor):
        return [tensor]
    return [part for name in tensor.__tensor_flatten__()[0] for part in _parts(getattr(tensor, name))]


def memory_of(tensor: Any) -> list[Any]:
    """Return the storages that hold a tensor's values: several of one that wraps others or is sparse.

    Examples
    --------
    >>> [storage.nbytes() for storage in memory_of(torch.eye(3).to_sparse())]
    [48, 12]
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # by vmap or by a derivative within forward
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if tensor.layout is torch.sparse_coo:
        return [part.untyped_storage() for part in (tensor._indices(), tensor._values())]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [part.untyped_storage() for part in (tensor.crow_indices(), tensor.col_indices(), tensor.values())]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [part.untyped_storage() for part in (tensor.ccol_indices(), tensor.row_indices(), tensor.values())]
    if tensor._is_zerotensor():  # a tangent that is zero has no memory
        return []
    return [storage for part in _parts(tensor) if (storage := _storage(part)) is not None]


def norm(gradient: Any) -> float:
    """Return the length of a gradient, sparse or dense."""
    dense = (gradient.coalesce().values() if gradient.is_sparse else gradient).detach()
    return float(torch.linalg.vector_norm(dense if dense.is_complex() else dense.float()))


def _storage(tensor: Any) -> Any:
    """Return a tensor's memory, None for what has none of its own (sparse tensors, wrappers)."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def _place(tensor: Any) -> tuple[Any, ...]:
    return (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def _extent(tensor: Any) -> tuple[int, int]:
    start = tensor.storage_offset()
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size)
    return start, start + reach + 1


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_fake(tensor: Any) -> bool:
    return hasattr(tensor, "fake_mode")


@cache
def _name(func: Any) -> str:
    schema = getattr(func, "_schema", None)
    return schema.name.partition("::")[2] if schema is not None else str(getattr(func, "__name__", func))
