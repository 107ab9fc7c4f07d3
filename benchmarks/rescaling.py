"""How well a device's times, rescaled by rooflines, predict another device: published layers and models.

    python benchmarks/rescaling.py

Each row was measured on several GPUs. One of them is the source, `mpsim.lowering.rescaling.rescaled` makes of it the
time on each other, and that is held against what was measured there. Nothing is fitted. Beside it stand the errors of
taking the source's time as it is, and of the ratio of the peaks alone. Prints the tables of docs/rescaling.md.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mpsim import Layer, Workload
from mpsim.lowering.rescaling import rescaled, roofline_of
from mpsim.topology.reported import catalog_name
from mpsim.workload.costs import median_s
from mpsim.workload.layers import Fidelity
from mpsim.workload.model import Precision

DATA = Path(__file__).parent / "data"


class Row(NamedTuple):
    """What was measured of one piece of work on one device."""

    work: str
    device: str
    dtype: str
    seconds: float
    flops: float
    parameter_bytes: int
    saved_bytes: int


def read(name: str) -> Iterator[dict[str, str]]:
    """Read a table with its heading lines left out."""
    with (DATA / name).open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(line for line in lines if not line.startswith("#"))


def block_flops(samples: int, seq: int, hidden: int) -> float:
    """Forward of one transformer block: https://arxiv.org/abs/2104.04473, appendix."""
    return 24 * samples * seq * hidden**2 + 4 * samples * seq**2 * hidden


def sailor() -> Iterator[Row]:
    """Blocks of two models, by micro-batch."""
    shapes = {"OPT-350": (2048, 1024), "GPT-Neo-2.7": (2048, 2560)}
    for row in read("sailor_blocks.csv"):
        size = int(row["micro_batch"])
        yield Row(
            f"{row['model']} block, micro-batch {size}",
            row["gpu"],
            "tf32",
            float(row["fwd_s"]) + float(row["bwd_s"]),
            block_flops(size, *shapes[row["model"]]),
            4 * int(row["parameters"]),
            4 * size * int(row["saved_floats"]),
        )


def neusight() -> Iterator[Row]:
    """Whole models on one GPU; bytes kept by https://arxiv.org/abs/2205.05198, equation 2, twice for float32."""
    for row in read("neusight_training.csv"):
        device = catalog_name(row["device"])
        if row["parallel"] != "single GPU" or device is None:
            continue
        size, seq, hidden, layers = (int(row[name]) for name in ("global_batch", "seq", "hidden", "layers"))
        head = 2 * size * seq * hidden * int(row["vocab"])
        saved = layers * size * seq * (68 * hidden + 10 * int(row["heads"]) * seq)
        parameters = layers * 12 * hidden**2 + hidden * int(row["vocab"])
        flops = layers * block_flops(size, seq, hidden) + head
        work = f"{row['model']}, batch {size}"
        yield Row(work, device, "float32", float(row["e2e_ms"]) / 1e3, flops, 4 * parameters, saved)


def predicted(source: Row, target: str) -> float:
    """Return the source's time as the target's, by rooflines."""
    layer = Layer.given("a", forward_s=source.seconds / 3, backward_s=source.seconds * 2 / 3,
                        parameter_bytes=source.parameter_bytes, saved_bytes=source.saved_bytes)  # fmt: skip
    cost = replace(layer.costs[0], flops=round(source.flops), fidelity=Fidelity.MEASURED)
    precision = Precision(name=source.dtype, compute="float32")
    work = replace(Workload.chain("w", [replace(layer, costs=(cost,))]), precision=precision)
    return sum(median_s(rescaled(work, source.device, target).layers[0].costs[0].samples)[:3])


def by_bound(source: Row, target: str) -> float:
    """Return the source's time by the ratio of one roofline a layer: the greater of FLOPs and bytes, not their sum."""
    moved = 2 * source.saved_bytes + source.parameter_bytes
    here, there = (roofline_of(name).seconds(source.flops, moved, source.dtype) for name in (target, source.device))
    return source.seconds * here / there


def by_peak(source: Row, target: str) -> float:
    """Return the source's time by the ratio of the peaks alone."""
    here, there = (roofline_of(name).peak_flops_per_s[source.dtype] for name in (target, source.device))
    return source.seconds * there / here


WAYS: dict[str, Callable[[Row, str], float]] = {
    "rooflines": predicted,
    "the greater": by_bound,
    "peaks": by_peak,
    "as it is": lambda source, target: source.seconds,
}


def main() -> None:
    """Print a table for each set of rows, and the mean over all pairs."""
    for name, rows in (("Sailor, blocks", list(sailor())), ("NeuSight, whole models", list(neusight()))):
        print(
            f"\n### {name}\n\n| from | to | pieces of work | rooflines: mean | worst | peaks: mean | as it is: mean |"
        )
        print("|---|---|---|---|---|---|---|")
        everything: dict[str, list[float]] = {way: [] for way in WAYS}
        for source, target, errors in pairs(rows):
            mean = {way: statistics.mean(map(abs, found)) for way, found in errors.items()}
            worst = max(errors["rooflines"], key=abs)
            print(f"| {source} | {target} | {len(errors['rooflines'])} | {mean['rooflines']:.0%} | {worst:+.0%}"
                  f" | {mean['peaks']:.0%} | {mean['as it is']:.0%} |")  # fmt: skip
            for way, found in errors.items():
                everything[way] += map(abs, found)
        said = ", ".join(
            f"{way} {statistics.mean(found):.0%} in the mean and {statistics.median(found):.0%} in the median"
            for way, found in everything.items()
        )
        print(f"\nOver all {len(everything['rooflines'])}: {said}.")


def pairs(rows: Iterable[Row]) -> Iterator[tuple[str, str, dict[str, list[float]]]]:
    """Yield every ordered pair of devices with the errors of each way over the work that both did."""
    table: dict[str, dict[str, Row]] = {}
    for row in rows:
        table.setdefault(row.device, {})[row.work] = row
    for source, theirs in table.items():
        for target, ours in table.items():
            both = [work for work in theirs if work in ours]
            if source != target and both:
                yield source, target, {
                    way: [predict(theirs[work], target) / ours[work].seconds - 1 for work in both]
                    for way, predict in WAYS.items()
                }  # fmt: skip


if __name__ == "__main__":
    main()
