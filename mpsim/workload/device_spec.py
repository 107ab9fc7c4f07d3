"""What the roofline of a device is made of, without PyTorch: peaks, memory bandwidth, a kernel's floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpsim.calls import checked
from mpsim.documents import Written, function_of
from mpsim.errors import MpsimError
from mpsim.hints import shown

__all__ = ["DeviceSpec"]


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec(Written):
    """What the roofline of a device is made of.

    Attributes
    ----------
    name : str
        Such as ``"h100-sxm"``.
    peak_flops_per_s : mapping of str to float
        By dtype: ``{"bfloat16": 989e12, "float32": 67e12}``.
    matmul_fraction : float
        The part of the peak that large matrix products reach.
    memory_bytes_per_s : float
        Bandwidth of the device's memory.
    memory_bytes : int
        Its size; 0 if unknown.
    kernel_floor_s : float
        What a kernel costs however small it is.
    linear_dtype : str
        The dtype at whose peak the products of linear layers in bfloat16 or float16 are charged, as where their
        operands are turned into eight- or four-bit numbers; ``""``: their own. Attention and whatever is batched stay
        in their own.
    reported : tuple of str
        What drivers and PyTorch call it.

    Examples
    --------
    >>> DeviceSpec(name="toy", peak_flops_per_s={"float32": 1e12}, memory_bytes_per_s=1e11).kernel_floor_s
    5e-06
    """

    _reads = "lowering.rescaling:roofline_of"
    _written = "a DeviceSpec, or a device of the catalog such as 'H100-SXM5-80GB'"

    name: str
    peak_flops_per_s: Mapping[str, float]
    matmul_fraction: float = 0.7
    memory_bytes_per_s: float
    memory_bytes: int = 0
    kernel_floor_s: float = 5e-6
    linear_dtype: str = ""
    reported: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, value in (("memory_bytes_per_s", self.memory_bytes_per_s), ("matmul_fraction", self.matmul_fraction)):
            if not value > 0:
                raise MpsimError(f"device {self.name!r}: {what} is {value}, expected more than 0")
        if any(not value > 0 for value in self.peak_flops_per_s.values()):
            raise MpsimError(f"device {self.name!r}: a peak of {min(self.peak_flops_per_s.values())} FLOP/s")
        if self.linear_dtype:
            self.peak(self.linear_dtype)

    @classmethod
    def of(cls, given: DeviceSpec | str | Path, precision: str = "") -> DeviceSpec:
        """Return a roofline as it is, or that of a device of the catalog, at the rate of a precision.

        Raises
        ------
        MpsimError
            It is neither, or the device has no such rate.

        Examples
        --------
        >>> DeviceSpec.of("H100-SXM5-80GB", "bf16-mixed").name
        'H100-SXM5-80GB'
        """
        if isinstance(given, DeviceSpec):
            return given
        if not isinstance(given, str):
            raise MpsimError(f"device is {shown(given)}, expected {cls._written}")
        found: DeviceSpec = function_of(cls._reads)(given, precision)
        return found

    def peak(self, dtype: str) -> float:
        """Return the peak of a dtype in FLOP/s.

        Raises
        ------
        MpsimError
            It is not given.
        """
        if dtype not in self.peak_flops_per_s:
            known = ", ".join(self.peak_flops_per_s)
            raise MpsimError(f"device {self.name!r} has no peak for {dtype}, only for {known}: give one")
        return self.peak_flops_per_s[dtype]

    def seconds(self, flops: float, moved_bytes: float, dtype: str) -> float:
        """Return what one operation costs.

        Raises
        ------
        MpsimError
            It computes in a type whose peak is not given.
        """
        compute_s = flops / (self.peak(dtype) * self.matmul_fraction) if flops else 0.0
        return max(compute_s, moved_bytes / self.memory_bytes_per_s) + self.kernel_floor_s
