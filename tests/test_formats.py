"""The files printed in docs/formats.md can be read and replayed."""

import re
from pathlib import Path

from mpsim import load_plan, load_workload, parse_topology, simulate
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding

PAGE = (Path(__file__).parent.parent / "docs" / "formats.md").read_text(encoding="utf-8")
WORKLOAD, PLAN = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def test_the_workload_by_hand(tmp_path):
    path = tmp_path / "two.json"
    path.write_text(WORKLOAD)
    workload = load_workload(path)
    topology = parse_topology(f"chain:2,bandwidth={2**15}B/s,latency=0")
    result = simulate(workload, topology, Plan(pp=2, microbatches=1))
    # Two forwards, two backwards, and 16 KiB sent each way in half a second.
    assert result.step_s == 2 * 0.5 + 2 * 1.0 + 2 * 0.5


def test_the_plan_by_hand(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(PLAN)
    assert load_plan(path) == Plan(dp=2, pp=4, batch=64, microbatches=8)


def test_plans_of_every_version_are_read():
    data = Path(__file__).parent / "data"
    assert load_plan(data / "plan-3.json").text == (
        "dp=2 pp=2 micro-batches=4 interleaved-1f1b chunks=2 zero=3 ahead=2"
    )
    sharding = Sharding(zero=3, sequence=True, recompute="full", gather_dtype="bfloat16", accumulate=True)
    assert load_plan(data / "plan-4.json") == Plan(dp=4, cp=2, ep=2, tp=2, batch=64, microbatches=2, sharding=sharding)
