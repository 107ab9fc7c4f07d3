"""The script for a GPU runs to its end: here on a CPU, at small sizes."""

import json
import sys

import gpu
import pytest

from mpsim.workload.file import load_workload


@pytest.mark.slow
def test_small_sizes_on_a_cpu(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--small", "-o", str(tmp_path)])
    gpu.main()
    (steps,) = tmp_path.glob("steps.*.json")
    rows = json.loads(steps.read_text())["rows"]
    assert [(row["model"], row["microbatch"], row["tensor_parallel"]) for row in rows] == [
        ("mnist-mlp", 64, 1),
        ("mnist-mlp", 64, 2),
        ("gpt2-bf16-mixed", 1, 1),
        ("gpt2-bf16-mixed", 2, 1),
    ]
    assert [one["microbatches"] for one in rows[0]["steps"]] == [1, 2, 4, 8]
    assert len(rows[0]["stages"]) == 2
    names = sorted(path.name for path in tmp_path.glob("*.json") if path != steps)
    assert len(names) == 2
    for name in names:
        assert load_workload(tmp_path / name).checks
    assert "mnist-mlp" in (tmp_path / "gpu.md").read_text()
