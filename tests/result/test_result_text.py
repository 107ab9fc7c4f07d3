from dataclasses import replace

from mpsim.result.frames import summary_row
from mpsim.result.model import MemoryUse, Result
from mpsim.result.text import format_percent, summary


def lines(result: Result) -> dict[str, str]:
    facts = summary(result).split("\n\n")[1].splitlines()
    return {line[:16].strip(): line[16:] for line in facts}


def test_the_facts_by_hand(pipeline):
    facts = lines(pipeline)
    assert facts["step"] == "34.7 ms"
    assert facts["throughput"] == "923 samples/s (global batch 32)"
    assert facts["speedup"] == "2.70x over one device (93.8 ms)"
    ideal = "on an ideal network (infinitely fast) it takes 34.2 ms"
    assert facts["communication"] == f"488 us of the step (1.4 %); {ideal}"
    assert facts["memory"] == "fits: peak 192 MiB of 1 GiB (gpu0)"
    assert facts["trials"] == "nothing random: one replay stands for all 100 trials"
    assert facts["fidelity"] == "measured: every layer time was measured at the size used"
    assert facts["runtime"] == "ideal"


def test_parts_of_the_mean_device_add_up(pipeline):
    parts = [float(part.split()[-2]) for part in lines(pipeline)["mean device"].split(",")]
    assert abs(sum(parts) - 100) <= 0.2  # four numbers rounded to 0.1


def test_both_numbers_where_it_does_not_fit(replay):
    facts = lines(replay(capacity_bytes=160 * 2**20))
    assert facts["memory"] == "DOES NOT FIT: gpu0 needs 192 MiB, has 160 MiB (2 of 4 devices over)"


def test_the_device_named_is_the_fullest_and_not_the_largest(pipeline):
    small = replace(pipeline.devices[3], capacity_bytes=121 * 2**20)
    facts = lines(replace(pipeline, devices=(*pipeline.devices[:3], small)))
    assert facts["memory"] == "fits: peak 120 MiB of 121 MiB (gpu3)"


def test_a_bubble_that_transfers_fill_is_not_listed_twice(pipeline):
    devices = tuple(replace(device, bubble_s=device.idle_s * 1.5) for device in pipeline.devices)
    facts = lines(replace(pipeline, devices=devices))
    assert (
        facts["mean device"]
        == "compute 69.0 %, exposed communication 4.2 %, idle in the bubble 26.8 %, idle behind transfers 0.0 %"
    )


def test_unknown_capacity_promises_nothing(replay):
    assert lines(replay(capacity_bytes=0))["memory"] == (
        "peak 192 MiB (gpu0); capacity unknown, so nothing is said about fitting"
    )


def test_trials_and_their_interval(noisy):
    facts = lines(noisy)
    assert facts["trials"] == "41 replayed"
    assert facts["step"] == "34.7 ms; 5-95 % of trials within 33.1 ms to 36.2 ms"


def test_a_real_run_says_so(noisy):
    facts = lines(replace(noisy, made_by="emulate", runtime="torch-gloo"))
    assert facts["runtime"] == "torch-gloo (a real run)"
    assert facts["trials"] == "41 run"


def test_few_devices_are_listed_those_alike_together_and_many_summarised(pipeline, replay):
    table = summary(pipeline).split("\n\n")[-1].splitlines()
    assert [line.split()[0] for line in table] == ["device", "gpu0", "gpu1", "gpu2", "gpu3"]
    many = replay(stages=16, replicas=4)
    alike = summary(many).split("\n\n")[-1].splitlines()[1:]
    assert sum(int(line.split()[2]) for line in alike) == 64
    assert len({line[10:] for line in alike}) == len(alike) <= 16
    unlike = [replace(device, compute_s=1.0 + i) for i, device in enumerate(many.devices)]
    table = summary(replace(many, devices=tuple(unlike))).split("\n\n")[-1].splitlines()
    assert [line.split()[0] for line in table] == ["64", "lowest", "median", "highest"]


def test_columns_are_aligned_and_lines_fit_a_terminal(replay):
    text = summary(replay(stages=16, replicas=4))
    for block in text.split("\n\n")[2:]:
        assert len({len(line) for line in block.splitlines()}) == 1
    assert max(map(len, text.splitlines())) <= 120


def test_traffic_is_told_by_axis(replay):
    table = summary(replay(replicas=2)).split("\n\n")[2].splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["pp", "send"], ["dp", "all_reduce"]]


def test_a_program_without_samples_or_devices():
    result = Result(
        workload="collectives", topology="ring:4", plan="", step_s=1.0, trial_step_s=(1.0,), free_step_s=0.0
    )
    facts = lines(result)
    assert "throughput" not in facts
    assert "speedup" not in facts
    assert "memory" not in facts


def test_percent_has_no_negative_zero():
    assert format_percent(-1e-9) == "0.0 %"


def test_a_real_run_says_nothing_of_what_it_did_not_measure(pipeline):
    devices = tuple(replace(device, bubble_s=None, memory=MemoryUse(), capacity_bytes=0) for device in pipeline.devices)
    run = replace(pipeline, made_by="emulate", free_step_s=None, devices=devices)
    text = summary(run)
    for word in ("communication  ", "memory", "bubble", "ideal network"):
        assert word not in text
    assert "idle" in text
    assert (run.communication_overhead_s, run.communication_overhead_fraction) == (None, None)
    row = summary_row(run)
    assert (row["free_step_s"], row["bubble_fraction"]) == (None, None)
    assert row["idle_fraction"] > 0
