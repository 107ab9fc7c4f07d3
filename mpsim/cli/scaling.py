"""The options that say whose times a device is given, and whether a trace that contradicts itself is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from mpsim.cli.read import costs_by_type
from mpsim.lowering.devices import scaled_by_type
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["ScalingOptions", "by_type_of", "rescale_option", "scaling_options", "speed_option", "unchecked_option"]

costs_option = click.option("--costs", multiple=True, metavar="TYPE=FILE", help="The workload traced on a device TYPE.")
rescale_option = click.option(
    "--rescale", metavar="roofline", help="Times for other devices than the traced one, by the rooflines of both."
)
speed_option = click.option(
    "--speed", type=float, metavar="F", help="Other devices than the traced one compute F times as fast as it."
)
unchecked_option = click.option(
    "--unchecked", is_flag=True, help="Take a trace even where its layers miss its own whole step by more than 15 %."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingOptions:
    """Whose times devices are to be given that the workload was not traced on."""

    costs: tuple[str, ...]
    rescale: str | None
    speed: float | None


def scaling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of costs by type, of a rescaling and of a speed to a command."""
    for option in (speed_option, rescale_option, costs_option):
        command = option(command)
    return command


def by_type_of(given: ScalingOptions, workload: Workload, topology: Topology) -> dict[str, Workload]:
    """Return the workloads by type of device that the options make.

    Raises
    ------
    MpsimError
        As `costs_by_type` and `scaled_by_type`.
    """
    found = costs_by_type(given.costs, topology)
    return scaled_by_type(workload, topology, found, rescale=given.rescale, speed=given.speed)
