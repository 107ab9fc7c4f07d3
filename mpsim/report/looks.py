"""How what a report draws looks: a class of the page's style for each kind, whatever a file calls it."""

from __future__ import annotations

from markupsafe import Markup

from mpsim.report.markup import element

__all__ = [
    "look_of_axis",
    "look_of_gap",
    "look_of_holder",
    "look_of_kind",
    "look_of_stage",
    "swatch",
    "ticks",
    "time_unit",
]

_KINDS = (
    "forward", "recompute", "backward", "backward_input", "backward_weight", "optimizer", "compute", "launch",
)  # fmt: skip
_AXES = ("pp", "dp", "tp", "cp", "ep", "host")
_HOLDERS = (
    "parameters", "master", "gradients", "optimizer", "activations", "recomputation", "transients", "gathered",
    "buffers", "workspace",
)  # fmt: skip
_CAUSES = ("wait", "launch", "bubble", "idle")
_STAGES = 8


def look_of_kind(kind: str) -> str:
    """Return the class of a kind of computation.

    Examples
    --------
    >>> look_of_kind("backward_input"), look_of_kind('x" onload="')
    ('k-backward-input', 'k-other')
    """
    return f"k-{kind.replace('_', '-') if kind in _KINDS else 'other'}"


def look_of_axis(axis: str) -> str:
    """Return the class of a transfer's axis."""
    return f"a-{axis if axis in _AXES else 'other'}"


def look_of_gap(cause: str) -> str:
    """Return the class of a gap between computations, by what it waits for."""
    return f"g-{cause if cause in _CAUSES else 'idle'}"


def look_of_holder(holder: str) -> str:
    """Return the class of what holds memory."""
    return f"h-{holder if holder in _HOLDERS else 'other'}"


def look_of_stage(stage: int) -> str:
    """Return the class of a pipeline rank: eight colours that come round again; below 0 that of no rank."""
    return f"s-{stage % _STAGES}" if stage >= 0 else "s-none"


def swatch(look: str) -> Markup:
    """Return the square that stands in a legend."""
    square = element("rect", width=12, height=12, class_=look)
    return element("svg", square, viewBox="0 0 12 12", width=12, height=12, aria_hidden="true")


def time_unit(longest_s: float) -> tuple[float, str]:
    """Return the seconds in, and the name of, the unit in which `longest_s` reads best.

    Examples
    --------
    >>> time_unit(0.02), time_unit(0.0)
    ((0.001, 'ms'), (1.0, 's'))
    """
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if longest_s >= scale:
            return scale, unit
    return 1.0, "s"


def ticks(most: float, count: int = 6) -> list[float]:
    """Return round numbers from 0 up to `most`, about so many of them.

    Examples
    --------
    >>> ticks(52.8), ticks(0.0)
    ([0.0, 10.0, 20.0, 30.0, 40.0, 50.0], [0.0])
    """
    if not most > 0:
        return [0.0]
    rough = most / count
    power = 1.0
    while power > rough:
        power /= 10
    while power * 10 <= rough:
        power *= 10
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [i * step for i in range(int(most / step * (1 + 1e-12)) + 1)]
