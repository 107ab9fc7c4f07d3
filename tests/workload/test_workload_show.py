"""The table and the dictionary."""

from dataclasses import replace

from test_workload_file import golden

from mpsim.workload.model import Layer, Workload
from mpsim.workload.show import output_bytes, show_workload, workload_to_dict


def test_dictionary_has_the_layers_and_totals_with_units_in_the_keys():
    found = workload_to_dict(golden())
    assert found["layers"][0] | {"name": "a", "kind": "Linear"} == found["layers"][0]
    keys = ("parameter_bytes", "gradient_bytes", "output_bytes", "saved_bytes", "optimizer_bytes", "flops")
    assert [found["layers"][0][key] for key in keys] == [16, 16, 24, 32, 68, 64]
    assert [found[key] for key in keys if key != "output_bytes"] == [32, 32, 32, 136, 128]
    assert (found["forward_s"], found["backward_input_s"], found["backward_weight_s"]) == (1.25, 0.75, 0.375)
    assert found["checks"][0]["layers_over_whole_fraction"] == 1.125


def test_table():
    lines = show_workload(golden()).splitlines()
    assert lines[0] == "golden: 2 layers, micro-batch 2, given by hand, not measured;" + (
        " the rest is of device (clock thread-cpu, 1 thread)"
    )
    assert " ".join(lines[3].split()) == "a Linear 625 ms 375 ms 188 ms 31.2 ms 16 B 32 B 24 B"
    assert lines[5].split()[0] == "total"
    assert "sum of layers / whole step = 1.125" in lines[-1]


def test_table_of_a_shard():
    lines = show_workload(golden(), split=2).splitlines()
    assert "one of 2 tensor-parallel ranks" in lines[0]
    assert lines[3].split()[-6:] == ["8", "B", "0", "B", "12", "B"]


def blocks(times: list[float], kept: int = 8) -> Workload:
    layers = [Layer.given("embed", forward_s=1.0, backward_s=2.0)]
    layers += [Layer.given(f"h.{i}", forward_s=t, backward_s=2 * t, saved_bytes=kept + i) for i, t in enumerate(times)]
    return Workload.chain("blocks", layers, activation_bytes=64)


def test_layers_alike_stand_in_one_row_with_their_medians_and_those_unlike_do_not():
    work = blocks([4.0, 4.0, 4.25, 4.25, 3.75, 5.0, 4.0], kept=1000)
    table = show_workload(work).split("\n\n")[1].splitlines()
    assert [line.split("  ")[0] for line in table] == [
        "layer", "embed", "h.0 … 4 × 5", "h.5", "h.6", "total",
        "× n: so many layers of one kind and size: medians, their passes within 10 % of the first's (--each)",
    ]  # fmt: skip
    assert "29.2 s" not in table[2]
    assert "4 s" in table[2]
    each = show_workload(work, each=True).split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in each] == ["layer", "embed", *(f"h.{i}" for i in range(7)), "total"]
    assert table[-2].split() == each[-1].split()


def test_eighty_blocks_take_one_row():
    table = show_workload(blocks([4.0] * 80, kept=10**6)).split("\n\n")[1].splitlines()
    assert len(table) == 5
    assert table[2].startswith("h.0 … 79 × 80 ")


def test_outputs_are_those_of_the_micro_batch_that_is_shown():
    work = golden()
    (cost,) = {cost for cost in work.layers[0].costs if cost.split.tp == 1 and cost.microbatch == work.microbatch}
    twice = tuple(
        replace(
            layer, costs=(*layer.costs, *(replace(one, microbatch=4) for one in layer.costs if one.microbatch == 2))
        )
        for layer in work.layers
    )
    assert cost.microbatch == 2
    assert (output_bytes(work, "a"), output_bytes(work, "a", microbatch=4)) == (24, 48)
    line = show_workload(replace(work, layers=twice), 4).splitlines()[3]
    assert line.split()[-2:] == ["48", "B"]
