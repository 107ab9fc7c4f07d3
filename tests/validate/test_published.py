"""Published figures: their tables, what replays them, and what is said of rows that cannot be."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mpsim import MpsimError, Plan, Workload, parse_topology, simulate
from mpsim.validate.published import Outcome, Published, validate_published
from mpsim.validate.published.adapters import ADAPTERS, INPUTS
from mpsim.validate.published.decoder import Decoder, Part, Roofline, Shared, Slowed, block, embedding, head
from mpsim.validate.published.llama import named_decoder
from mpsim.validate.published.model import errors_of, refused
from mpsim.validate.published.replaying import COMMITTED
from mpsim.validate.published.sequential import resnet101, unet
from mpsim.validate.published.table import Row, load_table
from mpsim.validate.published.text import published_table, reasons
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.model import Layer

HEAD = "# where it is from\n"
COLUMNS = (
    "case,method,seq,vocab,layers,hidden,pp,micro_batch,n_microbatches,iteration_ms,fwd_us_per_stage,bwd_us_per_stage\n"
)
ROW = "one,base,1,1,2,1,2,1,4,15000,1000000 1000000,2000000 2000000\n"


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / f"{name}.csv").write_text(text)
    return path


def alone(path: Path, *rows: str):
    return validate_published(folder(path, vocab_parallel_stage_times=HEAD + COLUMNS + "".join(rows)))


def test_a_table_is_read_with_its_head_and_lines(tmp_path):
    folder(tmp_path, some='# one\n# two\na,b\n\n1,"x, y"\n2\n')
    table = load_table(tmp_path / "some.csv")
    assert table.head == ("one", "two")
    assert table.columns == ("a", "b")
    assert [(row.text("a"), row.text("b"), row.where) for row in table.rows] == [
        ("1", "x, y", "some.csv, line 5"),
        ("2", "", "some.csv, line 6"),
    ]


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "some.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n")
    table = load_table(tmp_path / "some.csv")
    assert table.columns == ("a", "b")
    assert [(row.text("a"), row.where) for row in table.rows] == [("1", "some.csv, line 2")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b,a\n1,2,3\n", "has the column 'a' twice"),
        ('a,b\n1,"2\n3,4\n', "as CSV: unexpected end of data"),
    ],
)
def test_what_could_be_read_in_two_ways_is_not_read(text, reason, tmp_path):
    folder(tmp_path, some=text)
    with pytest.raises(MpsimError, match=reason):
        load_table(tmp_path / "some.csv")


def test_no_number_is_read_of_a_row_with_a_comma_too_much(tmp_path):
    found = alone(tmp_path, ROW.replace("15000", "15,000"), ROW)
    assert [one.refused for one in found.outcomes] == [
        "vocab_parallel_stage_times.csv, line 3: 13 cells in 12 columns: quote what has a comma in it",
        "",
    ]


@pytest.mark.parametrize("text", ["", "abc", "0", "-1", "1.5", "nan", "inf", "1e9"])
def test_a_cell_that_is_no_count_is_refused_with_its_place(text):
    with pytest.raises(MpsimError, match=r"t.csv, line 2: tp is .* expected a whole number"):
        Row({"tp": text}, "t.csv, line 2").count("tp")


def test_errors_of_a_file_are_those_of_rows_that_judge():
    rows = [
        Outcome(case="a", measured=1.0, predicted=1.5),
        Outcome(case="b", measured=4.0, predicted=3.0),
        Outcome(case="c", measured=2.0, predicted=2.25),
        Outcome(case="d", measured=1.0, predicted=1.0, calibrates="a speed"),
        refused("e", "no"),
    ]
    found = errors_of(rows, {"time": 0.25})
    assert (found.count, found.calibrating, found.refused) == (3, 1, 1)
    assert found.mean_fraction == (0.5 + 0.25 + 0.125) / 3
    assert found.worst_fraction == 0.5
    assert found.bias_fraction == (0.5 - 0.25 + 0.125) / 3
    assert found.rank_correlation == 1.0
    assert found.reached is False


def test_one_row_is_replayed_as_1f1b(tmp_path):
    (outcome,) = alone(tmp_path, ROW).outcomes
    # 4 micro-batches of 1 s and 2 s on 2 stages: (4 + 1) · 3 s; a message and the update take next to nothing.
    assert outcome.predicted == pytest.approx(15.0, rel=1e-4)
    assert outcome.measured == 15.0


def test_rows_that_cannot_be_replayed_are_refused_and_the_others_go_on(tmp_path):
    bad = [
        ROW.replace("one,base", "two,synctwice"),
        ROW.replace("1000000 1000000", "1000000"),
        ROW.replace(",4,", ",,"),
    ]
    found = alone(tmp_path, *bad, ROW)
    assert [bool(one.refused) for one in found.outcomes] == [True, True, True, False]
    assert (found.files[0].count, found.files[0].refused) == (1, 3)
    assert "fwd_us_per_stage is '1000000', expected 2 numbers more than 0" in published_table(found)


def test_a_file_of_another_name_is_known_by_its_columns(tmp_path):
    found = validate_published(folder(tmp_path, held=HEAD + COLUMNS + ROW, other="a,b\n1,2\n", empty=COLUMNS))
    assert [(one.file, one.count) for one in found.files] == [("held", 1)]
    assert dict(found.unknown) == {
        "other.csv": "is no file that is known here, by its name or by its columns",
        "empty.csv": "has no rows",
    }


def test_a_known_name_without_its_columns_says_which(tmp_path):
    found = validate_published(folder(tmp_path, vocab_parallel_stage_times=COLUMNS.replace("pp,", "") + ROW))
    assert found.unknown == (
        ("vocab_parallel_stage_times.csv", "has no column 'pp', by which files of its name are replayed"),
    )
    assert published_table(found).startswith("vocab_parallel_stage_times.csv: has no column 'pp'")


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_known_file_comes_with_its_citation_and_columns(name):
    table = load_table(COMMITTED / f"{name}.csv")
    assert table.head
    assert set(ADAPTERS[name].columns) <= set(table.columns)
    assert all(ADAPTERS[name].case(row) for row in table.rows)


def test_every_input_comes_along():
    assert all((COMMITTED / f"{name}.csv").is_file() for name in INPUTS)


@pytest.mark.parametrize("name", ["megatron_seqpar2022_layer", "sailor_measured", "simumax_b200", "neusight_measured"])
@pytest.mark.parametrize("text", ["", "abc", "-1", "0", "7"])
def test_any_cell_may_be_anything(name, text, tmp_path):
    table = load_table(COMMITTED / f"{name}.csv")
    rows = [{**table.rows[-1].cells, column: text} for column in ADAPTERS[name].columns]
    lines = [",".join(f'"{row[column]}"' for column in table.columns) for row in rows]
    found = validate_published(folder(tmp_path, **{name: "\n".join([",".join(table.columns), *lines]) + "\n"}))
    assert len({one.case for one in found.outcomes}) >= 1
    assert all("\n" not in one.refused for one in found.outcomes)
    assert any(one.refused for one in found.outcomes)


GOALS = [
    ("vocab_parallel_stage_times", "time"),
    ("sailor_measured", "memory"),
    ("neusight_measured", "time"),
    ("megatron_seqpar2022_layer", "time"),
    ("simumax_b200", "memory"),
    ("torchgpipe_speed", "speedup"),
    ("torchgpipe_memory", "memory"),
]


@pytest.mark.parametrize(("name", "what"), GOALS)
def test_what_was_aimed_at_is_reached(name, what):
    (found,) = [one for one in validate_published(only=[name]).files if one.what == what]
    assert found.reached


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero_bubble_throughput", "megatron_seqpar2022_iteration"])
def test_what_was_aimed_at_is_reached_by_long_pipelines(name):
    (found,) = validate_published(only=[name]).files
    assert found.reached


def test_the_row_that_calibrates_is_met_and_does_not_judge():
    found = validate_published(only=["megatron_seqpar2022_layer"])
    first, *others = found.outcomes
    assert first.predicted == pytest.approx(first.measured, rel=1e-12)
    assert not first.judges
    assert {one.calibrated_by for one in others} == {first.case}


def held(path: Path, name: str, *rows: dict[str, str], columns: Sequence[str] = ()) -> Published:
    """Return what is found in a file of these rows, under a name of its own."""
    columns = columns or ADAPTERS[name].columns
    lines = [",".join(f'"{row[column]}"' for column in columns) for row in rows]
    return validate_published(folder(path, held="\n".join([",".join(columns), *lines]) + "\n"))


def first_of(name: str) -> dict[str, str]:
    return dict(load_table(COMMITTED / f"{name}.csv").rows[0].cells)


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("megatron_seqpar2022_layer", "combined_ms"),
        ("megatron_sc21_table1", "derived_iter_s"),
        ("megatron_bridge_recipes", "tokens_per_s_per_gpu"),
        ("torchgpipe_speed", "value"),
        ("torchtitan", "tokens_per_s_per_gpu"),
    ],
)
def test_the_row_that_calibrates_judges_nowhere_however_it_is_written(name, figure, tmp_path):
    row = first_of(name)
    same, more = (row | {figure: f" {times * float(row[figure]):.4f}"} for times in (1, 1.1))
    again, other = held(tmp_path, name, same, more).outcomes
    assert again.calibrates
    assert not again.judges
    assert other.judges
    assert other.calibrated_by


@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        ("simumax_b200", {"cp": "2"}, "has 8 GPUs, what is read of it comes to 16"),
        ("simumax_b200", {"heads": "96"}, "hidden 8192 on 96 heads, these on 8 of keys, do not divide"),
        ("simumax_b200", {"real_ms": "1e-320"}, "time comes to 9.88131e-324 and"),
        ("simumax_b200", {"real_alloc_GiB": "1e308"}, "memory comes to inf and"),
        ("vocab_parallel_stage_times", {"n_gpus": "16"}, "has 16 GPUs, what is read of it comes to 8"),
        ("zero_bubble_throughput", {"n_gpus": "16"}, "has 16 GPUs, what is read of it comes to 8"),
        ("megatron_sc21_table1", {"n_gpus": "64"}, "has 64 GPUs, what is read of it comes to 32"),
        ("megatron_seqpar2022_iteration", {"seq_parallel": "true"}, "seq_parallel is 'true', expected yes or no"),
        ("megatron_seqpar2022_layer", {"experiment": "other"}, "'other' says neither what is recomputed nor"),
        ("megatron_bridge_recipes", {"fsdp_group": "some"}, "fsdp_group is 'some', expected a whole number"),
        ("megatron_bridge_recipes", {"model": "LLAMA3_8B_LoRA"}, "sizes of 'LLAMA3_8B_LoRA' are not known here"),
        ("torchtitan", {"techniques": "compile + MXFP8"}, "'mxfp8' is not replayed here: bf16 and float8"),
        ("torchtitan", {"techniques": "compile; ZBV"}, "'zbv' is not replayed here: bf16 and float8"),
        ("sailor_measured", {"layers_per_stage": "0-24"}, "do not have the 26 layers of OPT-350 one after another"),
        ("torchgpipe_memory", {"experiment": "unet-memory/other"}, "'unet-memory/other' is not known here"),
        ("torchgpipe_memory", {"balance": "x241"}, "balance has 'x241', expected numbers of layers"),
        ("torchgpipe_speed", {"gpu": "Tesla V100"}, "gpu is 'Tesla V100': rows of 'Tesla P40' are replayed"),
        ("torchgpipe_speed", {"unit": "s"}, "unit is 's': rows of 'samples/s' are replayed"),
        ("torchgpipe_speed", {"n_gpus": "8"}, "has 8 GPUs, what is read of it comes to 1"),
    ],
)
def test_what_a_row_says_and_nobody_replays_is_refused(name, changed, reason, tmp_path):
    row = first_of(name)
    found = held(tmp_path, name, row | changed, columns=tuple(row))
    assert [reason in one.refused for one in found.outcomes] == [True]


def test_a_file_that_names_another_system_is_none_of_this_one(tmp_path):
    (tmp_path / "simumax_a100_pcie.csv").write_text((COMMITTED / "simumax_b200.csv").read_text())
    assert {one.refused for one in validate_published(tmp_path).outcomes} == {
        "the file is of a100, by its name: rows of b200_bf16_ceperm are replayed"
    }


@pytest.mark.parametrize(
    ("name", "column", "text", "reason"),
    [
        ("simumax_system_efficiencies", "value", "inf", "value is 'inf', expected a number"),
        ("simumax_system_efficiencies", "value", "none", "value is 'none', expected a number"),
        ("neusight_op_profiles", "fwd_ms", "-1", "fwd_ms is '-1', expected a number from 0"),
    ],
)
def test_nonsense_in_what_others_are_predicted_from_refuses_them(name, column, text, reason, tmp_path):
    table = load_table(COMMITTED / f"{name}.csv")
    rows = [{**row.cells, column: text} for row in table.rows]
    lines = [",".join('"{}"'.format(row[key].replace('"', '""')) for key in table.columns) for row in rows]
    judged = {"simumax_system_efficiencies": "simumax_b200", "neusight_op_profiles": "neusight_measured"}[name]
    folder(tmp_path, **{name: "\n".join([",".join(table.columns), *lines])})
    (tmp_path / f"{judged}.csv").write_text((COMMITTED / f"{judged}.csv").read_text())
    found = validate_published(tmp_path).outcomes
    assert all(one.refused for one in found)
    assert any(reason in one.refused for one in found)


def test_reasons_are_counted_by_file():
    rows = [refused("a", "x"), refused("b", "y"), refused("c", "x")]
    assert reasons(rows) == [("", "x", 2, "a"), ("", "y", 1, "b")]


# A decoder's kernels


def free(kind: str, axis: str, bytes_: float) -> float:
    return 0.0


class Counted:
    """Rates at which a multiplication takes a second, and a byte nothing, or the other way round."""

    def __init__(self, *, products: bool) -> None:
        self.products, self.width = products, 2

    def product(self, rows, inner, columns, role="forward", count=1):
        return self.products * count * rows * inner * columns

    def attention(self, shared, decoder, backward=False):
        return 0.0

    def passes(self, moved, kind=""):
        return (not self.products) * moved


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("Llama 3 8B", 8_030_257_152), ("LLAMA3.1_405B", 405_853_372_416), ("Qwen3_30B_a3B", 30_532_110_336)],
)
def test_named_models_have_their_published_parameters(name, parameters):
    decoder = named_decoder(name)
    blocks = decoder.attention_parameters + decoder.mlp_parameters + decoder.expert_parameters
    # All but the last norm, and in Qwen's blocks those of queries and keys.
    assert decoder.layers * blocks + 2 * decoder.vocabulary * decoder.hidden == pytest.approx(parameters, rel=1e-6)


def test_deepseek_has_its_published_parameters_but_for_three_dense_blocks():
    """671 B in all (arXiv 2412.19437); the first three blocks have a dense MLP of 18,432, as wide as what is chosen."""
    decoder = named_decoder("DeepSeekV3")
    mixed = decoder.layers * decoder.attention_parameters + 58 * (decoder.mlp_parameters + decoder.expert_parameters)
    dense = 3 * 3 * decoder.hidden * 18_432
    assert decoder.chosen * decoder.ffn + decoder.shared_ffn == 18_432
    assert mixed + dense + 2 * decoder.vocabulary * decoder.hidden == pytest.approx(671_026_419_200, rel=1e-5)


def test_latent_attention_multiplies_its_narrow_matrices_whole_on_every_rank():
    decoder = replace(named_decoder("DeepSeekV3"), ffn=2, experts=0, shared_ffn=0)
    whole, half = (block(decoder, Shared(1, 1, tp), Counted(products=True), free).forward_s for tp in (1, 2))
    narrow = 7168 * 1536 + 7168 * (512 + 64)
    assert whole == decoder.attention_parameters - 2 * 7168 + decoder.mlp_parameters
    assert half == narrow + (whole - narrow) / 2


def test_a_blocks_products_are_its_matrices_times_its_tokens():
    decoder = Decoder(layers=1, hidden=64, heads=4, kv_heads=2, ffn=128, vocabulary=10)
    made = block(decoder, Shared(2, 8), Counted(products=True), free)
    matrices = decoder.attention_parameters - 2 * 64 + decoder.mlp_parameters
    assert made.forward_s == made.inputs_s == made.weights_s == 16 * matrices


def test_ranks_that_share_a_block_split_its_products_and_its_sequence():
    decoder = Decoder(layers=1, hidden=64, heads=4, kv_heads=4, ffn=128, vocabulary=16)

    def at(**how):
        shared = Shared(2, 8, **how)
        return block(decoder, shared, Counted(products=True), free), block(
            decoder, shared, Counted(products=False), free
        )

    whole, tp, cut = at(), at(tp=4), at(tp=4, sequence_parallel=True)
    assert whole[0].forward_s == 4 * tp[0].forward_s == 4 * cut[0].forward_s
    assert whole[1].forward_s == 4 * cut[1].forward_s < 4 * tp[1].forward_s
    assert whole[0].parameters == 4 * cut[0].parameters
    assert whole[0].saved == 4 * cut[0].saved < 4 * tp[0].saved


def test_what_a_block_waits_for():
    calls = []

    def exchange(kind: str, axis: str, bytes_: float) -> float:
        calls.append((kind, axis, bytes_))
        return 1.0

    decoder = Decoder(layers=1, hidden=64, heads=4, kv_heads=4, ffn=128, vocabulary=16)
    made = block(decoder, Shared(2, 8, tp=2), Counted(products=True), exchange)
    assert set(calls) == {("all_reduce", "tp", 2 * 16 * 64)}
    assert (made.exchanged_s, made.exchanged_back_s) == (2.0, 2.0)
    made = block(decoder, Shared(2, 8, tp=2, sequence_parallel=True), Counted(products=True), exchange)
    assert (made.exchanged_s, made.exchanged_back_s) == (4.0, 4.0)
    made = block(decoder, Shared(2, 8, tp=2, sequence_parallel=True, overlaps=False), Counted(products=True), exchange)
    assert (made.exchanged_s, made.exchanged_back_s) == (4.0, 6.0)


def test_the_ends_hold_the_vocabulary():
    decoder = Decoder(layers=1, hidden=64, heads=4, kv_heads=4, ffn=128, vocabulary=16)
    ends: tuple[Part, Part] = (
        embedding(decoder, Shared(2, 8, tp=2), Counted(products=True), free),
        head(decoder, Shared(2, 8, tp=2), Counted(products=True), free),
    )
    assert [one.parameters for one in ends] == [512, 512]
    assert ends[1].forward_s == 16 * 64 * 8


def test_half_the_speed_takes_twice_as_long():
    spec = DeviceSpec(name="toy", peak_flops_per_s={"float16": 1e12}, memory_bytes_per_s=1e11)
    rates, decoder = Roofline(spec, "float16"), named_decoder("llama3-8b")
    half, shared = Slowed(rates, 0.5), Shared(1, 128)
    assert half.product(8, 8, 8) == 2 * rates.product(8, 8, 8)
    assert half.attention(shared, decoder) == 2 * rates.attention(shared, decoder)
    assert half.passes(1e9) == 2 * rates.passes(1e9)


# Rows of small layers


def test_resnet_and_unet_have_their_published_sizes():
    assert sum(leaf.parameters for leaf in resnet101()) == 44_549_160
    assert sum(leaf.flops for leaf in resnet101()) == pytest.approx(2 * 7.8e9, rel=0.01)
    assert len(unet(24, 128)) == 526 + 551
    assert sum(leaf.parameters for leaf in unet(48, 160)) == pytest.approx(15.82e9, rel=1e-3)
    assert next(unet(1, 8)[leaf.skip].output for leaf in unet(1, 8) if leaf.skip >= 0) == 128 * 12 * 12


# DeepSpeed's order of messages


def two() -> Workload:
    layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
    return Workload.chain("two", layers, activation_bytes=1024)


def test_deepspeed_meets_its_neighbours_between_computations():
    """A message takes a second (> and <), and each rank sends what it made only when it turns to its next computation.

    ::

        0  F0 >  F1 .  .  <0 >1 B0 B0 .  <1 B1 B1
        1  .  >  F0 B0 B0 <0 >1 F1 B1 B1 <1
    """
    chain = parse_topology("chain:2,bandwidth=1024B/s,latency=0s")
    assert simulate(two(), chain, Plan(pp=2, microbatches=2, runtime="deepspeed")).step_s == 13.0


@pytest.mark.parametrize("microbatches", [1, 2, 5])
def test_on_free_links_deepspeed_is_1f1b(microbatches):
    chain = parse_topology("chain:2,bandwidth=1e30GB/s,latency=0s")
    ideal, deepspeed = (
        simulate(two(), chain, Plan(pp=2, microbatches=microbatches, runtime=name)).step_s
        for name in ("ideal", "deepspeed")
    )
    assert deepspeed == ideal == 3.0 * (microbatches + 1)
