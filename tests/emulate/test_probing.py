"""Ping-pong between real processes on loopback: what is measured, and by whom."""

import os
import pickle
import subprocess
import sys

import pytest

pytest.importorskip("torch")

RANK = """
import pickle, sys
import torch.distributed as dist
from mpsim.emulate.probing import measure_links
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=3)
with open(f"{out}{rank}", "wb") as file:
    pickle.dump(measure_links([(0, 1), (2, 0)], messages=20, repeats=2), file)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_both_ways_of_each_pair_are_measured_and_every_rank_is_told(tmp_path):
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    arguments = [str(tmp_path / "store"), str(tmp_path / "out")]
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(i), *arguments], env=environment) for i in range(3)]
    assert [rank.wait(60) for rank in ranks] == [0, 0, 0]
    told = [pickle.loads((tmp_path / f"out{i}").read_bytes()) for i in range(3)]
    assert told[0] == told[1] == told[2]
    assert sorted((one.source, one.target) for one in told[0]) == [(0, 1), (0, 2), (1, 0), (2, 0)]
    for one in told[0]:
        # A latency is what is left of a trip without its post: on a busy machine's loopback that may be nothing.
        assert 0 <= one.latency_interval_s[0] <= one.latency_s <= one.latency_interval_s[1]
        low, high = one.bandwidth_interval_bytes_per_s
        assert 0 < low <= one.bandwidth_bytes_per_s <= high
