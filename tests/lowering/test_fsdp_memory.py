"""What a rank holds of FSDP, against PyTorch's own memory tracker; all cases: ``benchmarks/fsdp_memory.py``."""

import pytest
from fsdp_memory import Case, name_of, predicted, tracked, workload_of


@pytest.mark.parametrize(
    "case", [Case("llama", 4), Case("vit-b16", 8, "blocks", 2, True), Case("gpt2", 2, "none")], ids=name_of
)
def test_the_peak_is_within_five_percent(case):
    found, real = predicted(case, workload_of(case.model)), tracked(case)
    assert found.total == pytest.approx(real.total, rel=0.05)
    # What does not depend on the moment, exactly but for the counters of AdamW.
    assert found.parameters == real.parameters
    assert found.optimizer == pytest.approx(real.optimizer, rel=1e-3)
