"""``mpsim calibrate``: what it is given wrong is one line, and no file is lost or half written."""

import pytest

TOPOLOGY = "switch:2,link=nvlink4"
LOG = """# all_reduce_perf
#  Rank  0 Group  0 Pid 1 on host device  0 [0x00] GPU
#  Rank  1 Group  0 Pid 1 on host device  1 [0x01] GPU
#  size count type redop root time algbw busbw #wrong
#  (B) (elements) (us) (GB/s) (GB/s)
"""
for size in (2**i for i in range(10, 20)):
    us = round(10 + size / 1e5, 2)
    LOG += f"{size} {size // 4} float sum -1 {us:.2f} {size / us / 1e3:.2f} {size / us / 1e3:.2f} 0\n"


@pytest.fixture
def log(mpsim, tmp_path):
    (tmp_path / "a.log").write_text(LOG)
    return "a.log"


def test_a_log_becomes_a_topology(mpsim, tmp_path, log):
    made = mpsim("calibrate", log, "--topology", TOPOLOGY, "-o", "out.json")
    assert made.exit_code == 0, made.stderr
    assert (tmp_path / "out.json").is_file()


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (None, ("--topology", "switch:2,link=50GB/s@2us", "-o", "out.json"), "has no type"),
        (None, ("--topology", "ring:1,link=nvlink4", "-o", "out.json"), "a.log:6: 2 ranks, topology"),
        (None, ("--topology", "split.json", "-o", "out.json"), "no way from device 'a' to 'b'"),
        (None, ("--topology", TOPOLOGY, "-o", "no/out.json"), "there is no folder 'no'"),
        (None, ("--topology", TOPOLOGY, "-o", "a.log"), "'a.log' is read, and written over it would be lost"),
        (None, ("--topology", "split.json", "-o", "./split.json"), "is read, and written over it would be lost"),
        (b"", ("--topology", TOPOLOGY, "-o", "out.json"), "no table of nccl-tests in it"),
        (bytes(range(256)), ("--topology", TOPOLOGY, "-o", "out.json"), "it is not text"),
        (LOG.replace("1024 256", "1024")[:-9].encode(), ("--topology", TOPOLOGY, "-o", "out.json"), "cut or edited"),
        ("\n".join(LOG.split("\n")[:7]).encode(), ("--topology", TOPOLOGY, "-o", "out.json"), "log more sizes"),
    ],
)
def test_what_cannot_be_is_one_line_and_no_file_is_lost(mpsim, tmp_path, log, change, words, message):
    if change is not None:
        (tmp_path / log).write_bytes(change)
    (tmp_path / "split.json").write_text(
        '{"schema": "mpsim.topology/3", "name": "x", "devices": [{"name": "a"}, {"name": "b"}], "links": []}'
    )
    (tmp_path / "out.json").write_text("precious")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    made = mpsim("calibrate", log, *words)
    assert made.exit_code == 2
    assert message in made.stderr
    assert made.stderr.count("\n") == 1
    assert made.stdout == ""
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
