"""Values as figures: what one looks at first. Matplotlib is loaded when one is drawn, and not before."""

from __future__ import annotations

from inspect import signature
from typing import Any

from mpsim.above import needed
from mpsim.errors import MpsimError, shortened, unknown
from mpsim.plan.drawing import drawing_of
from mpsim.plan.model import Plan, check_size
from mpsim.reprs import brief
from mpsim.result.model import Result
from mpsim.result.text import facts_of, format_percent
from mpsim.search.found import Found
from mpsim.sweeps.model import SweepResult
from mpsim.sweeps.strong_and_weak import scaling_rows
from mpsim.topology.model import Topology
from mpsim.topology.show import draw
from mpsim.units import format_bytes, format_duration
from mpsim.workload.model import Workload
from mpsim.workload.show import workload_to_dict
from mpsim.workload.trust import times_of

__all__ = [
    "found_figure", "plan_figure", "result_figure", "sweep_figure", "topology_figure", "workload_figure",
]  # fmt: skip

_KINDS = ("timeline", "breakdown", "memory", "memory_over_time", "memory_by_holder", "cdf", "speedup")
_MOST_CELLS = 20_000


def workload_figure(workload: Workload) -> Any:
    """Draw what each layer takes and holds."""
    plain = workload_to_dict(workload)
    about = f"{len(workload.layers)} layers at micro-batch {workload.microbatch}, {' '.join(times_of(workload))}"
    figure = _drawn("layers", plain["layers"], heading=[shortened(workload.name, 120), about])
    longest = max(plain["layers"], key=_seconds)
    part = _seconds(longest) / (sum(map(_seconds, plain["layers"])) or 1.0)
    return _told(
        figure,
        f"Bars of what each layer of {workload.name} takes and holds; {longest['name']} takes most,"
        f" {format_percent(part)} of the time, and all parameters are {format_bytes(plain['parameter_bytes'])}",
    )


def _seconds(layer: dict[str, Any]) -> float:
    names = ("forward_s", "backward_input_s", "backward_weight_s", "optimizer_s")
    return float(sum(layer[name] for name in names))


def topology_figure(topology: Topology, **options: Any) -> Any:
    """Draw a topology's devices, switches and links."""
    figure = _drawn("network", topology, **options)
    made = ", ".join(line.strip() for line in draw(topology).splitlines()[1:] if " × " in line)
    return _told(figure, f"Graph of {topology.name}: {shortened(made, 300)}")


def plan_figure(plan: Plan, **options: Any) -> Any:
    """Draw what each pipeline rank runs when, by unit times."""
    check_size(plan)
    cells = plan.pp * plan.microbatches
    if cells > _MOST_CELLS:
        raise MpsimError(f"the plan's schedule has {cells:,} cells a pass, {_MOST_CELLS:,} are drawn at most")
    drawing = drawing_of(plan.rows())
    about = f"{drawing.bubble_fraction:.1%} bubble, at most {max(drawing.most_held):g} micro-batches held"
    heading = [plan.text, f"{plan.pp} pipeline ranks, {about}"]
    figure = _drawn("schedule", drawing.cells, **{"heading": heading, "shades": drawing.shades, **options})
    return _told(figure, f"What each pipeline rank runs when: {about}")


def result_figure(result: Result, kind: str = "", **options: Any) -> Any:
    """Draw a result: its timeline, or where its step goes where nobody kept what ran when."""
    asked = kind.replace("-", "_") if isinstance(kind, str) else str(kind)
    name = asked or ("timeline" if len(result.spans) else "breakdown")
    if name not in _KINDS:
        raise unknown("kind of picture", str(kind), _KINDS)
    figure = _drawn(name, result, **options)
    said = {what: words for what, words in facts_of(result) if what in ("step", "speedup", "memory") and words}
    facts = ", ".join(f"{what} {words}" for what, words in said.items())
    return _told(figure, f"{name.replace('_', ' ').capitalize()} of {result.workload} as {result.plan}: {facts}")


def sweep_figure(found: SweepResult) -> Any:
    """Draw the speedups of a sweep's plans, or, of several workloads and batches, what more devices bring."""
    if len(found.groups) > 1:
        figure = _drawn("scaling", scaling_rows(found))
        return _told(figure, f"What more devices bring to {len(found.groups)} workloads and batches")
    figure = _drawn("speedup", found.rows)
    return _told(figure, f"Speedup of {len(found.ranked)} plans by devices{_best(found)}")


def found_figure(found: Found) -> Any:
    """Draw the best plan of each number of devices."""
    if not found.by_devices:
        raise MpsimError("no plan can be run and fits, so there is none to draw")
    figure = _drawn("speedup", found.by_devices)
    counts = ", ".join(f"{row['n_devices']} devices {format_duration(row['step_s'])}" for row in found.by_devices[-6:])
    return _told(figure, f"The best plan of each number of devices: a step takes on {counts}{_best(found.sweep)}")


def _best(found: SweepResult) -> str:
    best = found.best
    return f"; the best is {best['plan']}, {format_duration(best['step_s'])} a step" if best else ""


def _drawn(name: str, *given: Any, **options: Any) -> Any:
    """Return what a function of `mpsim.plotting` draws.

    Raises
    ------
    MpsimError
        It has no such options, or is to draw into what are no axes.
    """
    function = getattr(needed("mpsim.result.plotting"), name)
    known = [one.name for one in signature(function).parameters.values() if one.kind is one.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise unknown(f"option of a {name}", option, known)
    ax = options.get("ax")
    if ax is not None and not hasattr(ax, "get_figure"):
        raise MpsimError(f"ax is {brief(ax)}, expected axes of matplotlib's")
    return function(*given, **options)


def _told(figure: Any, description: str) -> Any:
    """Return a figure that says what it shows; one of the user's own says what it did."""
    if hasattr(figure, "description"):
        figure.description = shortened(" ".join(description.split()), 600)
    return figure
