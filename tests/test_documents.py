"""Files that were cut, edited or made by something else: each gets one line, and nothing is left half written."""

import json
import math
import random
import re
import string
from dataclasses import dataclass

import pytest
from cases import chained, layer
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim import documents
from mpsim.errors import MpsimError
from mpsim.failures import Checkpoints, Event, Failures, goodput
from mpsim.failures.file import load_goodput, save_goodput
from mpsim.plan.model import Plan, load_plan, save_plan
from mpsim.plan.schedules import gpipe
from mpsim.result.file import load_result, save_result
from mpsim.simulation import simulate
from mpsim.topology.builders import ring
from mpsim.topology.file import load_topology, save_topology
from mpsim.topology.wire import Wire
from mpsim.workload.file import load_workload, save_workload
from mpsim.workload.model import Layer, Workload

WORK = Workload.chain(
    "two",
    [Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=64, saved_bytes=8) for name in "ab"],
    activation_bytes=16,
)
TOPOLOGY = ring(3, link=Wire(1e9, 1e-6))
PLAN = Plan(dp=1, pp=2, batch=4, microbatches=4, boundaries=(1,), devices=(2, 0))
# The newest, where it is not 1.
VERSIONS = {"workload": 3, "plan": 4, "result": 7, "topology": 5}
NOUNS = {
    "workload": (save_workload, load_workload, WORK),
    "topology": (save_topology, load_topology, TOPOLOGY),
    "plan": (save_plan, load_plan, PLAN),
    "result": (save_result, load_result, simulate(WORK, TOPOLOGY, Plan(pp=2, microbatches=2))),
    "goodput": (
        save_goodput,
        load_goodput,
        goodput(
            WORK,
            TOPOLOGY,
            Plan(pp=2),
            failures=Failures(listed=(Event(at_s=40.0, what="d1"),)),
            checkpoints=Checkpoints(storage_bytes_per_s=64.0),
            horizon=100.0,
        ),
    ),
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Return each document as it stands in its file."""
    folder = tmp_path_factory.mktemp("documents")
    found = {}
    for noun, (save, _, value) in NOUNS.items():
        save(folder / noun, value)
        found[noun] = (folder / noun).read_text()
    return found


def message(load, path) -> str:
    """Return the one line of an error, "" if there is none."""
    try:
        load(path)
    except MpsimError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("noun", NOUNS)
def test_there_and_back(noun, tmp_path):
    save, load, value = NOUNS[noun]
    save(tmp_path / "file.json", value)
    assert load(tmp_path / "file.json") == value
    assert (tmp_path / "file.json").read_text().startswith(f'{{\n "schema": "mpsim.{noun}/{VERSIONS.get(noun, 1)}"')
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("noun", NOUNS)
def test_cut_anywhere(noun, texts, tmp_path):
    load, text, path = NOUNS[noun][1], texts[noun], tmp_path / "file.json"
    for length in range(0, len(text.rstrip()), max(1, len(text) // 60)):
        path.write_text(text[:length])
        assert "is not whole JSON" in message(load, path)


@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ('"mpsim.{noun}/{next}"', "this mpsim reads up to mpsim.{noun}/{newest}: upgrade mpsim"),
        ('"mpsim.{noun}/0"', "this mpsim reads up to mpsim.{noun}/{newest}"),
        ('"mpsim.{noun}/' + "9" * 5000 + '"', "not an mpsim {noun} file"),
        ('"mpsim.other/1"', "is a other (mpsim.other/1), expected a {noun} (mpsim.{noun}/{newest})"),
        ('"{noun}"', "expected 'mpsim.{noun}/{newest}': not an mpsim {noun} file"),
        ("1", "expected 'mpsim.{noun}/{newest}': not an mpsim {noun} file"),
        ("null", "expected 'mpsim.{noun}/{newest}': not an mpsim {noun} file"),
    ],
)
def test_other_schemas(noun, schema, expected, texts, tmp_path):
    path = tmp_path / "file.json"
    newest = VERSIONS.get(noun, 1)

    def fill(text: str) -> str:
        return text.replace("{noun}", noun).replace("{newest}", str(newest)).replace("{next}", str(newest + 1))

    path.write_text(texts[noun].replace(f'"mpsim.{noun}/{newest}"', fill(schema), 1))
    assert fill(expected) in message(NOUNS[noun][1], path)


@pytest.mark.parametrize("noun", NOUNS)
def test_a_missing_schema(noun, texts, tmp_path):
    body = json.loads(texts[noun])
    del body["schema"]
    (tmp_path / "file.json").write_text(json.dumps(body))
    assert "schema is None, expected" in message(NOUNS[noun][1], tmp_path / "file.json")


@pytest.mark.parametrize("noun", NOUNS)
def test_an_unknown_field(noun, texts, tmp_path):
    (tmp_path / "file.json").write_text(texts[noun].replace("{", '{"colour": "blue",', 1))
    assert "unknown field 'colour'" in message(NOUNS[noun][1], tmp_path / "file.json")


# Where a hand slipped: (what stood there, what stands there now, the message).
EDITS = [
    ("[1.0]", "[NaN]", "it holds NaN, which is no measurement"),
    ("[1.0]", "[-Infinity]", "it holds -Infinity, which is no measurement"),
    ("[1.0]", "[1e999]", "layers[0].costs[0].samples: forward_s holds inf, expected seconds, zero or more"),
    ("[1.0]", '["inf"]', "forward_s holds inf, expected seconds"),
    ("[1.0]", "[-1.0]", "forward_s holds -1.0, expected seconds, zero or more"),
    ("[1.0]", '["1.0"]', 'layers[0].costs[0].samples.forward_s[0]: expected a number, found "1.0"'),
    ("[1.0]", "[true]", "expected a number, found true"),
    ("[1.0]", "[null]", "expected a number, found null"),
    ("[1.0]", "[[1.0]]", "expected a number, found [1.0]"),
    ("[1.0]", "[]", "forward_s is missing: measure it"),
    ("[1.0]", "1.0", "forward_s: expected a list, found 1.0"),
    ("[1.0]", "[1" + "0" * 400 + "]", "a number of 401 digits is more than a float holds"),
    ("[1.0]", "[1" + "0" * 5000 + "]", "cannot be read"),
    ('"forward_s"', '"foward_s"', "unknown field 'foward_s'; did you mean 'forward_s'?"),
    ('"forward_s": [1.0],', "", "field 'forward_s' is missing"),
    ('"forward_s": [1.0],', '"forward_s": [1.0], "forward_s": [2.0],', "it gives 'forward_s' twice"),
    ('"microbatch": 1,', '"microbatch": 0,', "microbatch is 0, expected 1 or more"),
    ('"microbatch": 1,', '"microbatch": 1.5,', "microbatch: expected a whole number, found 1.5"),
    ('"microbatch": 1,', '"microbatch": "1",', 'microbatch: expected a whole number, found "1"'),
    ('"saved_bytes": 8', '"saved_bytes": -8', "saved_bytes is -8, expected 0 or more"),
    ('"saved_bytes": 8', '"saved_bytes": 1e999', "saved_bytes: expected a whole number"),
    ('"samples"', '"fidelity": "best", "samples"', "fidelity: unknown value 'best'"),
    ('"samples"', '"fidelity": ["given"], "samples"', "fidelity: unknown value"),
    ('"shape": [16]', '"shape": [-16]', "shape [-16] has a negative size"),
    ('"shape": [16]', '"shape": 16', "shape: expected a list, found 16"),
    ('"dtype": "uint8"', '"dtype": "uint9"', "unknown dtype 'uint9'; did you mean 'uint8'?"),
    ('"producer": "a"', '"producer": "z"', "names layer 'z'"),
    ('"consumers": ["b"]', '"consumers": [""]', "names layer ''"),
    ('"name": "b"', '"name": "a"', "has two layers named 'a'"),
    ('"costs": [', '"costs": [[], ', "layers[0].costs[0]: expected an object with Cost fields, found []"),
]


@pytest.mark.parametrize(("old", "new", "expected"), EDITS)
def test_where_a_hand_slipped(old, new, expected, texts, tmp_path):
    assert old in texts["workload"]
    path = tmp_path / "file.json"
    path.write_text(texts["workload"].replace(old, new, 1))
    found = message(load_workload, path)
    assert expected in found
    assert found.startswith(str(path))
    assert "\n" not in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not whole JSON (line 1"),
        ("null", "expected one JSON object, found null"),
        ("[1]", "expected one JSON object, found [1]"),
        ("[" * 100_000, "cannot be read"),
        ('{"schema": "mpsim.workload/1", "name": ' + "[" * 100_000 + "]" * 100_000 + "}", "cannot be read"),
        ("\ufeff{}", "schema is None"),
        ("# comment", "is not whole JSON"),
    ],
)
def test_what_is_no_document(text, expected, tmp_path):
    (tmp_path / "file.json").write_text(text)
    found = message(load_workload, tmp_path / "file.json")
    assert expected in found
    assert "\n" not in found


def test_what_is_no_text(tmp_path):
    (tmp_path / "file.json").write_bytes(b"\xff\xfe\x00")
    assert "cannot read" in message(load_workload, tmp_path / "file.json")


def test_what_is_no_file(tmp_path):
    assert "cannot read" in message(load_workload, tmp_path)
    assert "cannot read" in message(load_workload, "file\0.json")
    assert "there is no folder" in message(load_workload, tmp_path / "nowhere" / "file.json")
    save_workload(tmp_path / "gpt2.cpu.json", WORK)
    assert message(load_workload, tmp_path / "gpt2-cpu.json").endswith("did you mean 'gpt2.cpu.json'?")


def test_names_from_a_file_stay_on_one_line(texts, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(texts["workload"].replace('"name": "a"', '"name": "zz\\nzz"', 1))
    assert "\n" not in message(load_workload, path)


@settings(max_examples=300)
@given(st.sampled_from(sorted(NOUNS)), st.data())
def test_any_edit_loads_or_gets_one_line(texts, tmp_path_factory, noun, data):
    text = texts[noun]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        end = at + data.draw(st.integers(0, 12))
        put = data.draw(
            st.one_of(
                st.sampled_from(['"', "{", "}", "[]", "-", "0", ",", "null", "1e99", "\\u0000"]), st.text(max_size=4)
            )
        )
        text = text[:at] + put + text[end:]
    path = tmp_path_factory.getbasetemp() / "edited.json"
    path.write_text(text, encoding="utf-8", errors="replace")
    assert "\n" not in message(NOUNS[noun][1], path)


@settings(max_examples=300)
@given(st.sampled_from(sorted(NOUNS)), st.randoms(use_true_random=False))
def test_any_value_of_another_type_loads_or_gets_one_line(texts, tmp_path_factory, noun, rng):
    """Swap one value anywhere in the document for one of another kind."""
    body = json.loads(texts[noun])
    _swap(body, rng)
    path = tmp_path_factory.getbasetemp() / "swapped.json"
    path.write_text(json.dumps(body))
    assert "\n" not in message(NOUNS[noun][1], path)


def _swap(body, rng: random.Random) -> None:
    while True:
        keys = list(body) if isinstance(body, dict) else range(len(body))
        key = rng.choice(list(keys))
        if isinstance(body[key], dict | list) and body[key] and rng.random() < 0.8:
            body = body[key]
            continue
        word = "".join(rng.choices(string.ascii_letters, k=3))
        body[key] = rng.choice([None, True, -1, 0, 10**400, 0.5, "", word, [], {}, [[]], [0], {"name": 1}])
        return


def test_infinity_is_a_word(tmp_path):
    topology = ring(3, link=Wire(math.inf))
    save_topology(tmp_path / "file.json", topology)
    assert '"inf"' in (tmp_path / "file.json").read_text()
    assert load_topology(tmp_path / "file.json") == topology


# Whole or not at all.


@dataclass(frozen=True)
class Broken:
    """Something that cannot be written."""

    value: object


@pytest.mark.parametrize("value", [math.nan, object(), {1, 2}])
def test_what_cannot_be_written_leaves_the_old_file(value, tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")
    with pytest.raises((ValueError, TypeError)):
        documents.write(path, "broken", 1, Broken(value))
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file.json"]


def test_text_that_is_no_unicode(tmp_path):
    with pytest.raises(MpsimError, match="cannot write"):
        documents.write_text(tmp_path / "file.json", "\ud800")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["nowhere/file.json", "file\0.json"])
def test_where_nothing_can_be_written(path, tmp_path):
    with pytest.raises(MpsimError, match="cannot write"):
        save_workload(f"{tmp_path}/{path}", WORK)


def test_a_schedule_that_is_a_function_is_saved_as_its_rows(tmp_path):
    def mine(ranks, microbatches):
        return gpipe(ranks, microbatches)

    save_plan(tmp_path / "plan.json", Plan(pp=2, microbatches=2, schedule=mine))
    plan = load_plan(tmp_path / "plan.json")
    assert plan == Plan(pp=2, microbatches=2, schedule="0F0 0F1 0B0 0B1\n1F0 1F1 1B0 1B1")
    assert plan.schedule(2, 2) == gpipe(2, 2)


def test_rows_that_are_no_schedule_are_not_saved(tmp_path):
    with pytest.raises(MpsimError, match="schedule has 0 rows, the plan has 1 pipeline ranks"):
        save_plan(tmp_path / "plan.json", Plan(schedule=lambda ranks, microbatches: []))
    assert list(tmp_path.iterdir()) == []


def test_a_workload_made_by_hand_is_kept(tmp_path):
    work = chained([layer("a", parameters={"w": 3}), layer("b", optimizer_s=0.1)], 8)
    save_workload(tmp_path / "file.json", work)
    assert load_workload(tmp_path / "file.json") == work


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
TEXTS = st.one_of(st.text(), st.text(alphabet='[]{}",:\n \u2028\\x'))
VALUES = st.recursive(
    SCALARS | TEXTS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5)
)


@given(VALUES)
def test_text_is_that_of_the_encoder_of_python_with_lists_of_scalars_on_a_line(value):
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    flat = re.sub(r"\[\n\s*([^\[\]{}]*?)\n\s*\]", lambda m: "[" + re.sub(r",\n\s*", ", ", m[1]) + "]", text)
    assert documents._text(value) == flat


def test_the_way_to_what_does_not_fit_is_told():
    @dataclass(frozen=True, kw_only=True)
    class Leaf:
        sizes: tuple[int, ...] = ()
        pair: tuple[tuple[str, float], ...] = ()

    @dataclass(frozen=True, kw_only=True)
    class Tree:
        leaves: tuple[Leaf, ...]
        one: Leaf | None = None

    def fails(data, where=""):
        with pytest.raises(MpsimError) as error:
            documents.decode(Tree, data, where)
        return str(error.value)

    assert fails({"leaves": [{}, {"sizes": [1, 2, "3"]}]}) == 'leaves[1].sizes[2]: expected a whole number, found "3"'
    assert (
        fails({"leaves": [{}, {"size": 1}]}, "row 3") == "row 3.leaves[1]: unknown field 'size'; did you mean 'sizes'?"
    )
    assert fails({"leaves": [], "one": {"pair": [["a", True]]}}) == "one.pair[0][1]: expected a number, found true"
    assert fails({"leaves": [{"pair": [["a", 1.0, 2]]}]}) == "leaves[0].pair[0]: expected 2 items, found 3"
    assert fails({}) == "field 'leaves' is missing"
    assert fails([], "row 3") == "row 3: expected an object with Tree fields, found []"
    assert documents.decode(Tree, {"leaves": [{"sizes": [1, 2.0]}]}).leaves[0].sizes == (1, 2)
