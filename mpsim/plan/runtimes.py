"""Runtimes: how what executes a plan treats its messages."""

from __future__ import annotations

from dataclasses import dataclass

from mpsim.errors import unknown

__all__ = ["RUNTIMES", "Runtime", "resolve_runtime"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Choices of a lowering that follow from the runtime, not from the plan.

    Attributes
    ----------
    name : str
        As named in every result.
    blocking_sends : bool
        A send occupies its sender's compute stream until it is delivered.
    """

    name: str
    blocking_sends: bool = False


RUNTIMES = {
    # Sends and receives run beside compute; messages between two ranks in one direction stay in order.
    "ideal": Runtime(name="ideal"),
    # As in a runtime without asynchronous sends, and in ASTRA-sim's pipelines.
    "blocking": Runtime(name="blocking", blocking_sends=True),
}


def resolve_runtime(name: str) -> Runtime:
    """Return the runtime of that name.

    Examples
    --------
    >>> resolve_runtime("ideal").blocking_sends
    False
    """
    if name not in RUNTIMES:
        raise unknown("runtime", name, RUNTIMES)
    return RUNTIMES[name]
