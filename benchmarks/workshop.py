"""The workshop's collectives for real and simulated, one figure: docs/images/workshop.png.

    python benchmarks/workshop.py [--fabric host]

Gradients of a small MNIST network, all-reduced over four devices on a ring, eight trials: each layer's own collective
one after another, then all of them in one, then as much as one of four tensor-parallel ranks is fed at batch 8192 (a
quarter of the images and of the labels). The simulated curves are predicted from links measured before the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib import pyplot as plt

from mpsim import Result, parse_topology, plotting, simulate_collectives
from mpsim.emulate import emulate_collectives
from mpsim.result.statistics import interval

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "workshop.png"
TOPOLOGY = "ring:4,link=100Mbit/s@1ms"
LISTS = {
    "each layer's gradients, one after another": (2600, 33024, 131584, 803840),
    "all gradients at once": (971048,),
    "input and labels of a tensor-parallel rank, batch 8192": (6438912,),
}
TRIALS = 8


def results(sizes: Sequence[int], fabric: str) -> tuple[Result, Result, Result]:
    """Return what was measured, what was simulated as gloo does it, and what a textbook ring would take."""
    ran = emulate_collectives(sizes, parse_topology(TOPOLOGY), trials=TRIALS, fabric=fabric)
    assert ran.links is not None
    gloo = simulate_collectives(sizes, ran.links, trials=TRIALS, runtime="torch-gloo")
    ideal = simulate_collectives(sizes, ran.links, trials=TRIALS)
    return (
        replace(ran.result, plan="measured"),
        replace(gloo, plan="simulated, runtime torch-gloo"),
        replace(ideal, plan="simulated, runtime ideal"),
    )


def main() -> None:
    """Run and simulate each list, print the medians, draw the distributions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fabric", default="namespaces")
    fabric = parser.parse_args().fabric
    figure, axes = plt.subplots(len(LISTS), figsize=(9.5, 10.0), layout="constrained")
    for (name, sizes), ax in zip(LISTS.items(), axes, strict=True):
        found = results(sizes, fabric)
        plotting.cdf(found, ax=ax)
        ax.set_title(f"{name}: {', '.join(f'{size:,}' for size in sizes)} bytes", fontsize="medium", loc="left")
        measured, gloo, ideal = (interval(one).median_s for one in found)
        print(
            f"{name}: measured {measured * 1e3:.1f} ms, torch-gloo {gloo * 1e3:.1f} ms ({gloo / measured - 1:+.1%}),"
            f" ideal {ideal * 1e3:.1f} ms ({ideal / measured - 1:+.1%})"
        )
    figure.suptitle(f"All-reduces over {TOPOLOGY}, {TRIALS} trials", x=0.01, ha="left")
    plotting.save_figure(figure, PICTURE)
    print(f"wrote {PICTURE.name}")


if __name__ == "__main__":
    main()
