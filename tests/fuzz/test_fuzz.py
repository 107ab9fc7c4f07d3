"""Two thousand command lines and files as a stranger would give them: each ends well, or in one line."""

import signal
from pathlib import Path
from types import FrameType

import pytest
from fuzz_inputs import Input, inputs
from fuzz_running import judge, prepared
from fuzz_seeds import seeds
from hypothesis import HealthCheck, given, settings

_LONGEST_S = 60  # Of the processor: nothing is timed, but what does not end must not hold up all other tests.


def _late(number: int, frame: FrameType | None) -> None:
    raise AssertionError(f"it does not end: {_LONGEST_S} s of the processor are over")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory):
    """Yield valid files by name, in whose folder the inputs run."""
    files = seeds(tmp_path_factory.mktemp("seeds"))
    before = signal.signal(signal.SIGVTALRM, _late)
    with prepared(Path(tmp_path_factory.mktemp("fuzz")), files):
        yield files
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.slow
def test_two_thousand_inputs_end_well_or_in_one_line(valid):
    @settings(max_examples=2000, suppress_health_check=list(HealthCheck))
    @given(inputs(valid))
    def each(one: Input) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, _LONGEST_S)
        try:
            found = judge(one, valid)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        assert not found, found

    each()


@pytest.mark.parametrize(
    "words",
    [
        ("simulate", "small.json", "box.json", "--pp", "2", "--microbatches", "2"),
        ("show", "sweep.csv", "result.json"),
        ("import", "step.0.et", "step.1.et", "--topology", "box.json"),
        ("import", "kineto.json", "--microbatch", "8"),
        ("calibrate", "nccl.log", "--topology", "box.json", "-o", "out/a.json"),
        ("validate", "published", "published", "--file", "simumax_b200"),
    ],
)
def test_what_the_fuzzer_begins_with_is_valid(valid, words):
    """Damage to what is refused anyway would find nothing."""
    assert judge(Input(words), valid, only=0) == ""
