"""The roofline of a device: what a model's operations would cost there, as the clock of a run that computes nothing.

Every operation that reaches the device is charged

    max(FLOPs / (peak · matmul_fraction), bytes read and written / memory bandwidth) + kernel floor

(https://doi.org/10.1145/1498765.1498785). Views are free. Only PyTorch's own fused kernels are known; caches, overlap
and the making of eight- and four-bit operands are not modelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type

from mpsim.errors import MpsimError
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.flops import looks_like_products
from mpsim.workload.operators import Operator, learn, moved_bytes, tensors_of
from mpsim.workload.stand_in import Each, StandIn

__all__ = ["DeviceSpec", "Roofline", "widest"]


# Which function they run, or how often, values decide: on fake tensors each function is charged once.
_BY_VALUES = {"cond", "while_loop", "scan", "associative_scan", "map_impl"}
_LINEAR = {"mm", "addmm", "_addmm_activation", "linear", "mkldnn_linear", "_grouped_mm"}
_HALF = ("bfloat16", "float16")
_COMPLEX = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}


@dataclass(frozen=True, slots=True)
class _Charge:
    flops: Any
    seconds: Any
    uncounted: str  # what to call it where FLOPs should be counted and are not
    unpriced: Any  # FLOPs in a dtype without a peak
    dtype: str  # in which it computes


def widest(counted: Mapping[str, int]) -> str:
    """Return the type in which most FLOPs are done, of those of each; empty if there are none.

    Examples
    --------
    >>> widest({"float32": 2, "bfloat16": 3, "": 9}), widest({})
    ('bfloat16', '')
    """
    return max(filter(None, counted), key=counted.__getitem__, default="")


class Roofline(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
    """Charge every operation that reaches the device; without a device, count FLOPs alone.

    Enter it inside of a ``FakeTensorMode``, or over real tensors. An operator that cannot be counted never stops a run:
    it is costed by its bytes and stands in `uncounted`. Causality is not subtracted from attention.

    Parameters
    ----------
    spec : DeviceSpec, optional
        The device; without one `seconds` stays 0.
    stand_in : StandIn, optional
        Where the run is at the stand-in micro-batch: everything is charged at each of its micro-batches.

    Attributes
    ----------
    seconds : float
        Charged so far.
    charged : list of float
        Seconds of each operation: what a stretch of them adds up to does not depend on what was before.
    flops, kernels : int
        Counted so far.
    uncounted : dict of str to int
        How often each operator was called whose FLOPs should count and could not.

    Examples
    --------
    >>> spec = DeviceSpec(name="toy", peak_flops_per_s={"float32": 1e9}, memory_bytes_per_s=1e9, kernel_floor_s=0.0)
    >>> with Roofline(spec) as roofline:
    ...     product = torch.ones(2, 3) @ torch.ones(3, 4)
    >>> roofline.flops, roofline.kernels, roofline.uncounted
    (48, 3, {})
    """

    supports_higher_order_operators = True

    def __init__(self, spec: DeviceSpec | None = None, stand_in: StandIn | None = None) -> None:
        super().__init__()
        self.spec, self.stand_in = spec, stand_in
        self.seconds: Any = 0.0
        self.charged: list[Any] = []
        self.flops: Any = 0
        self._flops_in: Counter[str] = Counter()
        self.kernels = 0
        self.uncounted: dict[str, int] = {}
        self._unpriced: Any = 0
        self._operators: dict[Any, Operator] = {}
        self._charges: dict[Any, _Charge] = {}

    @property
    def compute(self) -> str:
        """The type in which most of the FLOPs are done; empty if there are none."""
        return widest(self._flops_in)

    @property
    def called(self) -> set[str]:
        """The names of the operators that were called."""
        return {operator.name for operator in self._operators.values()}

    def tally(self) -> dict[str, Any]:
        """Return the FLOPs so far by the type in which they are done, and as ``""`` those of them without a price."""
        return {**self._flops_in, "": self._unpriced}

    def check(self, counted: Mapping[str, int] | None = None) -> None:
        """Refuse costs of which more than a hundredth of the FLOPs are in a dtype whose peak the device lacks.

        Parameters
        ----------
        counted : mapping of str to int
            FLOPs as :meth:`tally` gives them; by default its own.

        Raises
        ------
        MpsimError
            It names the dtypes.
        """
        counted = self.tally() if counted is None else counted
        unpriced, flops = counted.get("", 0), sum(count for dtype, count in counted.items() if dtype)
        if self.spec is not None and unpriced > 0.01 * flops:
            lacking = sorted({name.partition(" in ")[2] for name in self.uncounted if " in " in name})
            raise MpsimError(
                f"device {self.spec.name!r} has no peak for {', '.join(lacking)}, in which the model does"
                f" {unpriced / flops:.0%} of its FLOPs, only for {', '.join(self.spec.peak_flops_per_s)}:"
                " give one, or trace at another precision"
            )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = self._operators.get(func)
        if operator is None:
            operator = self._operators[func] = learn(func)
        if isinstance(func, torch._ops.HigherOrderOperator):
            result = self._higher_order(func, operator, args, kwargs)
        elif operator.free:
            return func(*args, **kwargs)
        elif any(map(_is_wrapper, types)):
            return NotImplemented  # it does its work by operators on what it wraps, and these come here
        elif operator.composite:
            with self:
                return func.decompose(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if not operator.free:
            self._charge(operator, func, args, kwargs, result)
        return result

    def _higher_order(self, func: Any, operator: Operator, args: Any, kwargs: Any) -> Any:
        """Run an operator that takes functions, with what these do charged as often as they are run."""
        if operator.count is not None:
            return func(*args, **kwargs)
        if operator.name in _BY_VALUES and any(hasattr(item, "fake_mode") for item in tensors_of([*args])):
            self.uncounted[operator.name] = self.uncounted.get(operator.name, 0) + 1
        return func(*map(self._charging, args), **{name: self._charging(item) for name, item in kwargs.items()})

    def _charging(self, item: Any) -> Any:
        if not callable(item) or isinstance(item, torch.Tensor | type):
            return item

        def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                return item(*args, **kwargs)

        return run

    def _charge(self, operator: Operator, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        key = (func, _key(args), _key(kwargs.values()), *kwargs) if operator.remembered else None
        try:
            charge = self._charges.get(key)
        except TypeError:  # a size that is not known yet has no hash
            charge = key = None
        if charge is None:
            charge = self._costs(operator, args, kwargs, result)
            if key is not None:
                self._charges[key] = charge
        self.seconds += charge.seconds
        self.charged.append(charge.seconds)
        self.flops += charge.flops
        if charge.flops:
            self._flops_in[charge.dtype] += charge.flops
        self.kernels += 1
        if charge.uncounted:
            self.uncounted[charge.uncounted] = self.uncounted.get(charge.uncounted, 0) + 1
            self._unpriced += charge.unpriced

    def _costs(self, operator: Operator, args: Any, kwargs: Any, result: Any) -> _Charge:
        """Return what a call costs, at each micro-batch where a stand-in runs for several."""
        if self.stand_in is None or not self.stand_in.scales([args, list(kwargs.values()), result]):
            return self._cost(operator, args, kwargs, result)
        each = []
        for i in range(len(self.stand_in.sizes)):
            given = [self.stand_in.given(item, i) for item in (tuple(args), list(kwargs.values()), result)]
            each.append(self._cost(operator, given[0], dict(zip(kwargs, given[1], strict=True)), given[2]))
        first = each[0]
        return _Charge(
            Each(tuple(one.flops for one in each)),
            Each(tuple(one.seconds for one in each)),
            first.uncounted,
            Each(tuple(one.unpriced for one in each)),
            first.dtype,
        )

    def _cost(self, operator: Operator, args: Any, kwargs: Any, result: Any) -> _Charge:
        flops, uncounted = 0, operator.name if operator.count is None and looks_like_products(operator.name) else ""
        if operator.count is not None:
            try:
                flops = operator.count(args, kwargs, result)
            except Exception:  # whatever a formula meets that it was not written for
                uncounted = operator.name
        dtype = found = _dtype(args, kwargs)
        if self.spec is None:
            return _Charge(flops, 0.0, uncounted, 0, dtype)
        work = 4 * flops if dtype in _COMPLEX else flops  # a complex product is four real ones, counted as one
        dtype = _COMPLEX.get(dtype, dtype)
        if operator.word in _LINEAR and dtype in _HALF and self.spec.linear_dtype:
            dtype = self.spec.linear_dtype
        unpriced = 0
        if flops and dtype not in self.spec.peak_flops_per_s:
            work, unpriced, uncounted = 0, flops, f"{operator.name} in {dtype}"
        try:
            moved = moved_bytes(operator, args, kwargs, result)
        except Exception:  # sizes that depend on values that are not there
            moved, uncounted = 0, uncounted or operator.name
        return _Charge(flops, self.spec.seconds(work, moved, dtype), uncounted, unpriced, found)


@cache
def _is_wrapper(kind: Any) -> bool:
    return kind is not torch.Tensor and is_traceable_wrapper_subclass_type(kind)


def _key(values: Any) -> tuple[Any, ...]:
    """Return what of the arguments decides what a call costs."""
    key: list[Any] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.layout is not torch.strided:
                key.append([])  # has no hash: how many elements it holds is in its values, and is not remembered
            else:
                key += (value.dtype, value.shape, value.stride())
        elif isinstance(value, list | tuple):
            key.append(_key(value))
        elif value is None or isinstance(value, int | float | str | torch.dtype | torch.SymInt | torch.SymFloat):
            key.append(value)
        else:
            key.append(type(value))
    return tuple(key)


def _dtype(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return in what an operation computes: the first floating type among its arguments."""
    kinds = [item.dtype for item in tensors_of([*args, *kwargs.values()])]
    floating = [kind for kind in kinds if kind.is_floating_point or kind.is_complex]
    return str((floating or kinds or [""])[0]).removeprefix("torch.")
