"""The options of trials: how many, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from mpsim.cli.types import SECONDS
from mpsim.errors import MpsimError
from mpsim.lowering.draws import Trials, Variability

__all__ = ["TrialOptions", "trial_options", "trials_of"]

_OPTIONS = (
    click.option(
        "--trials",
        type=int,
        metavar="N",
        help="Steps to replay, each with its own draw of layer times; by default one, every time at its median.",
    ),
    click.option("--epochs", type=int, metavar="E", help="Instead of --trials: the batches of an epoch, times E."),
    click.option("--samples", type=int, metavar="N", help="Samples in an epoch; by default the workload's data set."),
    click.option(
        "--seed", type=int, default=0, show_default=True, metavar="N", help="The same seed gives the same bits."
    ),
    click.option(
        "--jitter",
        type=SECONDS,
        default="0",
        help="Mean of the extra latency of every transfer, as in '10 us'; by default none.",
    ),
    click.option(
        "--straggler-probability",
        type=float,
        default=0.0,
        metavar="P",
        help="Of each device to be slow in a trial, 0 to 1.",
    ),
    click.option(
        "--straggler-factor",
        type=float,
        default=1.0,
        metavar="F",
        help="How many times as long a slow device computes.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOptions:
    """How many trials were asked for, and what is to differ between them."""

    trials: int | None
    epochs: int | None
    samples: int | None
    seed: int
    jitter: float
    straggler_probability: float
    straggler_factor: float


def trial_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of trials to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def trials_of(given: TrialOptions, batch: int, dataset_samples: int, processes: int = 1) -> Trials:
    """Return the trials that the options ask for, shared by so many processes.

    Raises
    ------
    MpsimError
        Both or too few trials and epochs, no samples, or a half-said straggler.
    """
    slow, factor = given.straggler_probability, given.straggler_factor
    if (slow > 0) != (factor != 1):
        raise MpsimError(
            f"--straggler-probability is {slow:g} and --straggler-factor {factor:g}: a straggler needs both,"
            " as in 0.01 and 1.5"
        )
    return Trials(
        count=_count(given, batch, dataset_samples),
        rng=given.seed,
        variability=Variability(link_jitter_s=given.jitter, straggler_probability=slow, straggler_factor=factor),
        processes=processes,
    )


def _count(given: TrialOptions, batch: int, dataset_samples: int) -> int:
    trials, epochs, samples = given.trials, given.epochs, given.samples
    if epochs is None:
        if samples is not None:
            raise MpsimError(f"--samples {samples} says how long an epoch is: give --epochs too")
        return 1 if trials is None else trials
    if trials is not None:
        raise MpsimError(f"--trials {trials} and --epochs {epochs} are both given: leave one out")
    samples = dataset_samples if samples is None else samples
    if epochs < 1 or samples < 1:
        what = (
            "the workload does not say how many samples an epoch has"
            if samples == 0
            else f"{epochs} epochs of {samples} samples"
        )
        raise MpsimError(f"{what}: give --epochs and --samples of 1 or more, or --trials")
    if not batch:
        raise MpsimError("--epochs needs a batch, which a list of collectives has not: give --trials")
    # The last, smaller batch of an epoch is a step too.
    return -(-samples // batch) * epochs
