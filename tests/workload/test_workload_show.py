"""The table and the dictionary."""

from test_workload_file import golden

from mpsim.workload.show import show_workload, workload_to_dict


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
    assert lines[0] == "golden: 2 layers, micro-batch 2, device (clock thread-cpu, 1 thread)"
    assert " ".join(lines[4].split()) == "a Linear 625 ms 375 ms 188 ms 31.2 ms 16 B 32 B 24 B"
    assert lines[6].split()[0] == "total"
    assert "sum of layers / whole step = 1.125" in lines[-1]


def test_table_of_a_shard():
    lines = show_workload(golden(), split=2).splitlines()
    assert "one of 2 tensor-parallel ranks" in lines[0]
    assert lines[4].split()[-6:] == ["8", "B", "0", "B", "12", "B"]
