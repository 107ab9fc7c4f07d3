"""Where files are opened: nothing is waited for, nothing grows without end, links and modes are kept."""

import codecs
import gzip
import json
import os
import re
import socket
import stat
from pathlib import Path

import pytest
from cases import chained, layer
from hypothesis import given
from hypothesis import strategies as st

import mpsim
from mpsim.emulate.recipes import recipes
from mpsim.errors import MpsimError, printable
from mpsim.files import in_cell, of_cell, parse_json, read_bytes, read_text, stream_of, write_text, writing
from mpsim.interchange.astra_network import load_astra_network
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.topology.builders import ring
from mpsim.workload.file import load_workload, save_workload
from mpsim.workload.layers import Layer

WORK = chained([layer("a", parameters={"w": 3}), layer("b")], 8)


def test_what_is_no_file_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # a socket's whole path may be too long
        listening.bind("socket")
        for name, kind in (
            ("fifo", "a pipe"),
            ("socket", "a socket"),
            ("/dev/zero", "a device"),
            (str(tmp_path), "a folder"),
        ):
            with pytest.raises(MpsimError, match=f"cannot read .*: it is {kind}, no file"):
                load_workload(name)


def test_a_pipe_that_the_shell_made_is_read():
    reading, there = os.pipe()
    os.write(there, b"text")
    os.close(there)
    assert read_text(f"/dev/fd/{reading}") == "text"
    os.close(reading)


def test_what_unpacks_to_a_thousand_times_itself_is_not_unpacked(tmp_path):
    packed = gzip.compress(bytes(2**24), 9)
    (tmp_path / "bomb.json").write_bytes(packed * 8)
    with pytest.raises(MpsimError, match="unpack to more than 67,108,864, the most that are read"):
        load_workload(tmp_path / "bomb.json")
    (tmp_path / "large.json").write_bytes(b" " * 101)
    with pytest.raises(MpsimError, match="it has more than 100 bytes"):
        read_bytes(tmp_path / "large.json", most=100)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_marks_of_byte_order_and_gzip_are_read(encoding, pack, tmp_path):
    save_workload(tmp_path / "plain.json", WORK)
    text = (tmp_path / "plain.json").read_text().replace("\n", "\r\n")
    (tmp_path / "other.json").write_bytes(pack(text.encode(encoding)))
    assert load_workload(tmp_path / "other.json") == WORK
    assert codecs.BOM_UTF8 not in (tmp_path / "plain.json").read_bytes()


@pytest.mark.parametrize("deep", ["[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500, "[" * 10**5])
def test_json_is_no_deeper_than_ours(deep):
    with pytest.raises(ValueError, match="lie 100 deep"):
        parse_json(deep)


@given(st.recursive(st.text(alphabet="[]{}a"), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_brackets_in_names_are_no_depth(found):
    assert parse_json(json.dumps([found, "]" * 200])) == [found, "]" * 200]


def test_an_alias_of_yaml_is_refused(tmp_path):
    (tmp_path / "net.yml").write_text("topology: &a [ Ring ]\nnpus_count: [ *a, *a ]\n")
    with pytest.raises(MpsimError, match=r"line 2: \*a stands for what is elsewhere"):
        load_astra_network(tmp_path / "net.yml")


# Writing


def test_a_link_stays_and_what_it_names_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    write_text(tmp_path / "link", "new")  # it named nothing yet
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_text() == "new"
    assert [one.name for one in (tmp_path / "folder").iterdir()] == ["file"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_new_file_has_what_the_umask_leaves_and_an_old_one_keeps_its_mode(mask, tmp_path):
    (tmp_path / "old").touch()
    (tmp_path / "old").chmod(0o640)
    before = os.umask(mask)
    try:
        for name in ("old", "new"):
            write_text(tmp_path / name, "text")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("old", "new")]
    assert modes == [0o640, 0o666 & ~mask]


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/nothing.json", "/proc/nothing", "/sys/nothing", "."])
def test_the_systems_files_are_not_replaced(path):
    with pytest.raises(MpsimError, match=r"is not a file|is the system's"):
        write_text(path, "text")


def test_a_link_to_a_device_is_not_replaced_either(tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(MpsimError, match="is a device"):
        write_text(tmp_path / "link", "text")


def test_stdout_is_a_stream_and_gets_all_or_nothing(tmp_path, capsysbinary):
    (tmp_path / "out").symlink_to("/dev/stdout")
    for path in ("-", "/dev/stdout", tmp_path / "out"):
        assert stream_of(path) == 1
        write_text(path, "text")
        assert capsysbinary.readouterr().out == b"text"

    def fails() -> None:
        with writing("-") as file:
            file.write(b"half")
            raise MpsimError("no")

    with pytest.raises(MpsimError, match="no"):
        fails()
    assert capsysbinary.readouterr().out == b""


def test_a_descriptor_is_a_stream(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.write(b"before ")
        file.flush()
        write_text(f"/dev/fd/{file.fileno()}", "behind")
    assert (tmp_path / "file").read_text() == "before behind"


# What is printed


@given(st.text())
def test_no_message_commands_a_terminal(text):
    message = str(MpsimError(f"unknown {text}"))
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", message)
    assert printable(message) == message
    assert str(MpsimError(message)) == message


def test_a_long_message_keeps_its_cause_and_its_remedy():
    message = str(MpsimError(f"file {'a' * 5000!r}: it is too long: name another"))
    assert len(message) < 1000
    assert message.startswith("file 'aaa")
    assert " … " in message
    assert message.endswith("aaa': it is too long: name another")
    assert len(str(MpsimError("some words " * 500))) == 1000


@given(st.text(alphabet="'=+-@\t\ra1"))
def test_cells_are_no_formulas_and_read_back_equal(text):
    assert in_cell(text)[:1] not in tuple("=+-@\t\r")
    assert of_cell(in_cell(text)) == text


# What a file names is not run


@pytest.mark.parametrize("name", ["mymod:make", "hf:folder", "os:getcwd", "mnist"])
def test_what_a_workload_is_named_is_not_imported(name, tmp_path, monkeypatch):
    (tmp_path / "mymod.py").write_text("raise SystemExit('this ran')\n")
    monkeypatch.chdir(tmp_path)
    work = chained([layer("a"), layer("b")], 8)
    object.__setattr__(work, "name", name)
    lowering = lower(work, ring(2, link="1GB/s@0"), Plan(pp=2, boundaries=(1,)))
    with pytest.raises(MpsimError, match="is no model of the zoo, and what else a file names is not run: give --model"):
        recipes(lowering, None, "auto")


# What nobody can have meant


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"dp": True}, "dp is True, expected a whole number of 1 or more"),
        ({"pp": 2.0}, "pp is 2.0, expected a whole number"),
        ({"microbatches": "2"}, "microbatches is '2', expected a whole number"),
        ({"tp": None}, "tp is None, expected a whole number"),
        ({"runtime": 1}, "runtime is 1, expected a name"),
        ({"devices": 3}, "devices is 3, expected whole numbers"),
        ({"dp": 10**9}, "more than 1,000,000 are too many"),
    ],
)
def test_plans_of_other_types_are_refused(words, message):
    with pytest.raises(MpsimError, match=message):
        Plan(**words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"parameter_bytes": 7}, "parameter_bytes is 7, its parameters are float32, of 4 bytes each"),
        ({"parameter_bytes": -4}, "parameter_bytes is -4, expected 0 or more"),
        ({"saved_bytes": -1}, "saved_bytes is -1, expected a number of 0 or more"),
        ({"forward_s": True}, "forward_s is True, expected a number"),
        ({"optimizer_s": "1 ms"}, "optimizer_s is '1 ms', expected a number"),
    ],
)
def test_layers_that_cannot_be_are_refused(words, message):
    with pytest.raises(MpsimError, match=message):
        Layer.given("a", **({"forward_s": 1.0, "backward_s": 2.0} | words))


# One place


def test_files_are_opened_and_text_is_printed_in_one_place():
    """What else opens a file, reads what came with mpsim, the kernel's, or what this run itself wrote."""
    house = Path(mpsim.__file__).parent
    own = {"files.py", "topology/catalog.py", "workload/machine.py", "emulate/assignment.py"}
    # What a script of torch's is made of, which runs without mpsim, and what reads it.
    own |= {"emulate/script/text.py", "emulate/script/training.py"}
    opened = re.compile(
        r"\.read_(text|bytes)\(encoding|[^.\w](?<!def )open\(\w+[,)]|json\.loads\(Path|click\.s?echo\((?!context)"
    )
    printing = {"cli/output.py", "cli/program.py"}
    found = [
        str(path.relative_to(house))
        for path in sorted(house.rglob("*.py"))
        if any(opened.search(line) for line in path.read_text().splitlines() if ">>>" not in line and "..." not in line)
    ]
    assert [name for name in found if name not in own | printing] == []
