"""Random plans folded and whole: whether they are the same to the last bit, and in how many there is something to fold.

    python benchmarks/folding.py [PLANS]

Plans of up to 16 ranks by data, pipeline and tensor parallelism and ZeRO, under five runtimes, on clusters that are
alike all over or but for one device or link. Compared are the spans of every device, where its step went, its memory
over time, and the traffic.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Compare as many plans as asked for, and print how many were folded, wholly and in part."""
    sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "simulation")]
    from folded_cases import compared
    from test_folding import alike

    plans = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    counts = {"equal": 0, "folded": 0, "in part": 0}

    @settings(
        max_examples=plans, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
    )
    @given(alike())
    def each(case: tuple) -> None:
        simulated, (_, _, plan) = compared(*case), case
        counts["equal"] += 1
        counts["folded"] += simulated < plan.ranks
        counts["in part"] += plan.pp < simulated < plan.ranks

    each()
    print(f"{counts['equal']} equal, {counts['folded']} folded, {counts['in part']} of them in part")


if __name__ == "__main__":
    main()
