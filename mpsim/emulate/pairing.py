"""Check that scripts fit together before any process is started: a rank that waits for nobody waits for ever."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mpsim.errors import MpsimError
from mpsim.lowering.instructions import Collective, Post, Receive, Script, Send, Wait

__all__ = ["check_scripts"]


def check_scripts(scripts: Sequence[Script]) -> None:
    """Refuse scripts whose messages have one end, or whose posts nobody waits for.

    Raises
    ------
    MpsimError
        A message without its other end, a collective that a rank of its group does not post or posts in another
        order, a post that its rank never waits for, or a wait for nothing.

    Examples
    --------
    >>> from mpsim.lowering.bind import collective_scripts
    >>> check_scripts(collective_scripts([64], "all_reduce", [0, 1]))
    """
    for script in scripts:
        _check_waits(script)
    _check_messages(scripts)
    _check_collectives(scripts)


def _check_waits(script: Script) -> None:
    pending: dict[int, str] = {}
    for step in script.steps:
        if isinstance(step, Wait):
            for key in step.keys:
                if pending.pop(key, None) is None:
                    raise MpsimError(f"the script of device {script.device} waits for {key}, which is not under way")
        elif isinstance(step, Post):
            pending[step.key] = step.name
    if pending:
        name = next(iter(pending.values()))
        raise MpsimError(f"the script of device {script.device} never waits for {name!r}: add a Wait at its end")


def _check_messages(scripts: Sequence[Script]) -> None:
    ends: dict[int, set[tuple[str, int, int, int]]] = defaultdict(set)
    for script in scripts:
        for step in script.steps:
            if isinstance(step, Send):
                ends[step.key].add(("sends", script.device, step.peer, step.bytes))
            elif isinstance(step, Receive):
                ends[step.key].add(("receives", step.peer, script.device, step.bytes))
    for key, found in ends.items():
        (does, source, target, count), *others = sorted(found)
        if len(found) != 2 or others[0][1:] != (source, target, count) or others[0][0] == does:
            who = source if does == "sends" else target
            raise MpsimError(f"message {key} has no other end: device {who} {does} {count} bytes that nobody answers")


def _check_collectives(scripts: Sequence[Script]) -> None:
    order: dict[frozenset[int], dict[int, list[tuple[int, str, int]]]] = defaultdict(lambda: defaultdict(list))
    for script in scripts:
        for step in script.steps:
            if isinstance(step, Collective):
                order[frozenset(step.group)][script.device].append((step.key, step.kind, step.bytes))
    for group, found in order.items():
        if set(found) != group or len({tuple(steps) for steps in found.values()}) > 1:
            raise MpsimError(f"devices {sorted(group)} do not all post the same collectives in the same order")
