"""Lists of failures in files, good and bad."""

import pytest

from mpsim.errors import MpsimError
from mpsim.failures.listed import load_events
from mpsim.failures.model import Event

EVENTS = (Event(at_s=10800.0, what="d1"), Event(at_s=5400.0, what="d0", factor=1.5, lasting_s=600.0))


@pytest.mark.parametrize(
    "text",
    [
        "at,what,factor,lasting\n3h,d1,,\n90min,d0,1.5,10 min\n",
        "\ufeffwhat,at,lasting,factor\r\nd1,3h,0,1\r\nd0,5400s,600s,1.5\r\n\r\n",
        '[{"at": "3h", "what": "d1"}, {"at": "1.5h", "what": "d0", "factor": 1.5, "lasting": "10min"}]',
    ],
)
def test_a_table_and_a_list_say_the_same(tmp_path, text):
    (tmp_path / "events").write_text(text, encoding="utf-8")
    assert load_events(tmp_path / "events") == EVENTS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it lists no failures"),
        ("at,what\n", "it lists no failures"),
        ("[]", "it lists no failures"),
        ("{}", "it is no list of objects"),
        ("[1]", "it is no list of objects"),
        ("[" * 100_000, "it is not whole JSON"),
        ("at,waht\n3h,d1\n", "row 1 has more columns than at, what, factor, lasting: 'waht'; did you mean 'what'"),
        ("at,what\n3h,d1,2\n", "row 1 has more columns"),
        ("at,what\n3,d1\n", "row 1: at '3' has no unit"),
        ("at,what\n3h,\n", "row 1: nothing is said to fail"),
        ("at,what,factor\n3h,d1,fast\n", "row 1: factor is 'fast'"),
        ("at,what,factor\n3h,d1,nan\n", "factor of 'd1' is nan"),
        ("at,what\n-3h,d1\n", "is negative"),
        ('[{"at": [1], "what": "d1"}]', "'at' is '\\[1\\]', expected a time"),
        ('[{"at": "1h", "what": "d1", "factor": ' + "9" * 5000 + "}]", "JSON|factor"),
    ],
)
def test_what_says_no_event_is_refused_with_its_row(tmp_path, text, message):
    path = tmp_path / "events"
    path.write_text(text)
    with pytest.raises(MpsimError, match=message) as caught:
        load_events(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path, message in (
        (tmp_path, "it is a folder, no file"),
        (tmp_path / "none", "no file"),
        (tmp_path / "bytes", "not text"),
    ):
        with pytest.raises(MpsimError, match=message):
            load_events(path)
    with pytest.raises(MpsimError, match=r"is not a file|cannot read"):
        load_events("/dev/zero")
