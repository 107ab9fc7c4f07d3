"""Files are known by what they hold, and what is of no kind that is read is called what it is."""

import gzip
import json
import pickle

import pytest

from mpsim.errors import MpsimError
from mpsim.interchange.recognise import CHAKRA, KINETO, NETWORK, PERFETTO, kind_of

OPERATOR = {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 1, "dur": 2}
OURS = {"otherData": {"workload": "w", "plan": "p", "made_by": "simulate", "step_s": 1.0}, "traceEvents": []}


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        ({"schemaVersion": 1, "traceEvents": []}, KINETO),
        ({"distributedInfo": {"rank": 0}, "traceEvents": [OPERATOR]}, KINETO),
        ({"traceEvents": [{"ph": "X", "cat": "Operator", "name": "mul"}]}, KINETO),
        ({"traceEvents": [{"ph": "X", "name": "aten::mm", "pid": "CPU functions"}]}, KINETO),
        ([OPERATOR], KINETO),
        (OURS, PERFETTO),
        ({"npus_count": [4], "topology": ["Ring"]}, NETWORK),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.pt.trace.json.gz", "a.gz", "a.trace", "a"])
def test_what_a_file_holds_decides(tmp_path, held, kind, name):
    data = json.dumps(held).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert kind_of(str(tmp_path / name)) == kind


@pytest.mark.parametrize(
    ("held", "called"),
    [
        ([[-1, 1, 37888, 7], [1200, 0, 512, 3]], "a memory timeline of torch.profiler's"),
        ([[1, 2, 3], [[0, 5], [1, 5], [2, 6]]], "a memory timeline of torch.profiler's"),
        ([{"a": 1}], "JSON with a list of 1 things"),
        ([], "a Chrome trace of neither torch.profiler nor mpsim: its events' categories are none"),
        (3, "JSON with nothing but 3"),
        ({"traceEvents": [{"ph": "X", "cat": "devtools.timeline"}]}, "categories are devtools.timeline"),
        ({"schema": "mpsim.workload/1", "layers": []}, "mpsim's own workload"),
        ({"schema": "1.0.2-chakra.0.0.4", "nodes": []}, "an execution trace of PyTorch's"),
        ({"version": 3, "nccl_version": 22907, "results": []}, "a log of nccl-tests: mpsim calibrate"),
        ({"layers": 1, "heads": 2}, "JSON of no kind that is known, with the keys 'layers', 'heads'"),
    ],
)
def test_other_json_is_called_what_it_is(tmp_path, held, called):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(held))
    with pytest.raises(MpsimError, match=r"a\.json is ") as error:
        kind_of(str(path))
    assert called in str(error.value)
    assert "\n" not in str(error.value)
    assert "erfetto" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "called"),
    [
        (pickle.dumps({"segments": []}), "a pickle"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"<html><img/></html>", "a page of HTML"),
        (b"PK\x03\x04", "a zip archive"),
        (b"#  size  count\n", "text that begins with '#'"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path, data, called):
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(MpsimError, match=called):
        kind_of(str(tmp_path / "a.bin"))


def test_chakra_traces_are_named_by_their_beginning_or_by_file(tmp_path):
    (tmp_path / "w.0.et").write_bytes(b"\x03\x0a\x01\xff")
    (tmp_path / "w").write_bytes(b"\x03\x0a\x01\xff")
    assert {kind_of(str(tmp_path / name)) for name in ("w.0.et", "w", "none")} == {CHAKRA}
