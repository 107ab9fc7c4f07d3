"""What counts as the failure of a device, and what does not: a model's own error is raised as it is."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mpsim.errors import MpsimError

__all__ = [
    "ON_FAILURE", "DeviceFailure", "DeviceFull", "DeviceLost", "ProcessEnded", "blaming", "check_on_failure",
    "devices_in_words",
    "out_of_memory", "told", "warn",
]  # fmt: skip

ON_FAILURE = ("raise", "resplit")
_CPU_ALLOCATOR = "DefaultCPUAllocator: "  # PyTorch raises a RuntimeError where malloc fails


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFailure:
    """A device that was dropped.

    Attributes
    ----------
    device : str
        Its name.
    step : int
        Steps that were finished before.
    reason : str
        In words.

    Examples
    --------
    >>> print(DeviceFailure(device="left", step=3, reason="ran out of memory"))
    device left in step 3: ran out of memory
    >>> print(DeviceFailure(device="left", step=0, reason="device left: Linear takes 1.38 MiB, 1 MiB is free"))
    device left in step 0: Linear takes 1.38 MiB, 1 MiB is free
    """

    device: str
    step: int
    reason: str

    def __str__(self) -> str:
        # What a device refuses begins with its name already.
        return f"device {self.device} in step {self.step}: {self.reason.removeprefix(f'device {self.device}: ')}"


class ProcessEnded(MpsimError):
    """The process of a device is gone: it was killed, or has ended by itself."""


class DeviceLost(Exception):
    """Who failed: raised from what happened there.

    Attributes
    ----------
    who : object
        The part that was at work, or the device that it was to be placed on.
    reason : str
        In words.
    """

    def __init__(self, who: Any, reason: str) -> None:
        super().__init__(reason)
        self.who, self.reason = who, reason


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, a device's or this machine's.

    Examples
    --------
    >>> out_of_memory(MemoryError()), out_of_memory(torch.OutOfMemoryError()), out_of_memory(ValueError("memory"))
    (True, True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)


class DeviceFull(DeviceLost):
    """A part takes more than what is free of a device's declared memory."""


@contextlib.contextmanager
def blaming(who: Any) -> Iterator[None]:
    """Let the failure of a device, and nothing else, be raised as its own.

    Examples
    --------
    >>> with blaming("left"):
    ...     raise MemoryError
    Traceback (most recent call last):
    ...
    mpsim.emulate.failures.DeviceLost: ran out of memory
    """
    try:
        yield
    except ProcessEnded as error:
        raise DeviceLost(who, str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise DeviceLost(who, _memory_reason(error)) from error


def told(lost: DeviceLost, device: str, step: int) -> BaseException:
    """Return what is raised where nothing is to be done about a failure: what happened, as it is.

    Examples
    --------
    >>> str(told(DeviceLost(None, "its process 7 was killed by SIGKILL"), "left", 3))
    "device left in step 3: its process 7 was killed by SIGKILL: on_failure='resplit' goes on without it"
    """
    cause = lost.__cause__
    if cause is not None and not isinstance(cause, ProcessEnded):
        return cause
    failure = DeviceFailure(device=device, step=step, reason=lost.reason)
    return MpsimError(f"{failure}: on_failure='resplit' goes on without it")


def _memory_reason(error: BaseException) -> str:
    """Return the reason with the first line of what the error says, which names sizes."""
    said = str(error).strip().splitlines()
    return f"ran out of memory: {said[0]}" if said else "ran out of memory"


def devices_in_words(number: int) -> str:
    """Return how many devices.

    Examples
    --------
    >>> devices_in_words(1), devices_in_words(2)
    ('1 device', '2 devices')
    """
    return f"{number} device{'' if number == 1 else 's'}"


def warn(text: str) -> None:
    """Warn whoever called mpsim, from however deep.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("dropped")
    >>> str(caught[0].message)
    'dropped'
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("mpsim.", "torch.")):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def check_on_failure(word: str) -> str:
    """Return what is to be done about failures, if it is known.

    Raises
    ------
    MpsimError
        It is not.

    Examples
    --------
    >>> check_on_failure("resplit")
    'resplit'
    """
    if word not in ON_FAILURE:
        raise MpsimError(f"on_failure is {word!r}: give 'raise' or 'resplit'")
    return word
