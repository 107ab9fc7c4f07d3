"""Decoders of the zoo by size: GPT, Llama, Qwen, and mixtures of experts; readable without torch.

A family takes any size: ``size=NAME`` chooses one of its presets, and each number of it can be set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mpsim.workload.zoo.model import Size, ZooModel

__all__ = ["LANGUAGE_MODELS"]

_ZOO = "mpsim.workload.zoo"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """Models of one architecture: a preset of each size, with its parameters."""

    name: str
    description: str
    factory: str
    columns: tuple[str, ...]
    seq: int
    rows: Mapping[str, tuple[int, tuple[Size, ...]]]

    def model(self, name: str, size: str) -> ZooModel:
        """Return the model of a name whose sizes are a preset's where nothing else is asked for."""
        presets = {row: dict(zip(self.columns, values, strict=True)) for row, (_, values) in self.rows.items()}
        return ZooModel(
            name=name,
            description=f"{self.description}, {size} (size=… for others); language model; vocabulary shared by ranks",
            factory=f"{_ZOO}.{self.factory}",
            sizes={"size": size, **presets[size], "seq": self.seq},
            presets=presets,
            default_batch=8 if size.endswith("M") else 1,
            parameters=self.rows[size][0],
        )

    def models(self, prefix: str = "") -> Iterator[ZooModel]:
        """Yield the family by its own name, with the smallest preset, and each preset as ``name-size``."""
        yield self.model(self.name, next(iter(self.rows)))
        for size in self.rows:
            yield self.model(f"{self.name}-{size.lower()}", size)


_DENSE = ("n_layer", "hidden", "n_head", "n_kv_head", "ffn", "vocab", "tied")

# 15M to 110M: the models that github.com/karpathy/llama2.c was made for. 7B, 13B, 70B: Llama 2
# (https://arxiv.org/abs/2307.09288); 8B, 3-70B, 405B, and 1B, 3B: Llama 3, 3.1 and 3.2 (https://arxiv.org/abs/2407.21783).
_LLAMA = _Family(
    name="llama",
    description="Llama decoder",
    factory="decoders:llama",
    columns=_DENSE,
    seq=256,
    rows={
        "15M": (15_191_712, (6, 288, 6, 6, 768, 32_000, True)),
        "42M": (41_689_600, (8, 512, 8, 8, 1376, 32_000, True)),
        "110M": (109_529_856, (12, 768, 12, 12, 2048, 32_000, True)),
        "1B": (1_235_814_400, (16, 2048, 32, 8, 8192, 128_256, True)),
        "3B": (3_212_749_824, (28, 3072, 24, 8, 8192, 128_256, True)),
        "7B": (6_738_415_616, (32, 4096, 32, 32, 11_008, 32_000, False)),
        "8B": (8_030_261_248, (32, 4096, 32, 8, 14_336, 128_256, False)),
        "13B": (13_015_864_320, (40, 5120, 40, 40, 13_824, 32_000, False)),
        "70B": (68_976_648_192, (80, 8192, 64, 8, 28_672, 32_000, False)),
        "3-70B": (70_553_706_496, (80, 8192, 64, 8, 28_672, 128_256, False)),
        "405B": (405_853_388_800, (126, 16_384, 128, 8, 53_248, 128_256, False)),
    },
)
_LLAMA3 = {"llama3-1b": "1B", "llama3-3b": "3B", "llama3-8b": "8B", "llama3-70b": "3-70B", "llama3-405b": "405B"}

# https://arxiv.org/abs/2412.15115
_QWEN2 = _Family(
    name="qwen2.5",
    description="Qwen2.5 decoder",
    factory="qwen:qwen2",
    columns=_DENSE,
    seq=256,
    rows={
        "0.5B": (494_032_768, (24, 896, 14, 2, 4864, 151_936, True)),
        "1.5B": (1_543_714_304, (28, 1536, 12, 2, 8960, 151_936, True)),
        "3B": (3_085_938_688, (36, 2048, 16, 2, 11_008, 151_936, True)),
        "7B": (7_615_616_512, (28, 3584, 28, 4, 18_944, 152_064, False)),
        "14B": (14_770_033_664, (48, 5120, 40, 8, 13_824, 152_064, False)),
        "32B": (32_763_876_352, (64, 5120, 40, 8, 27_648, 152_064, False)),
        "72B": (72_706_203_648, (80, 8192, 64, 8, 29_568, 152_064, False)),
    },
)
# https://arxiv.org/abs/2505.09388
_QWEN3 = _Family(
    name="qwen3",
    description="Qwen3 decoder",
    factory="qwen:qwen3",
    columns=("n_layer", "hidden", "n_head", "n_kv_head", "head_dim", "ffn", "vocab", "tied"),
    seq=256,
    rows={
        "0.6B": (596_049_920, (28, 1024, 16, 8, 128, 3072, 151_936, True)),
        "1.7B": (1_720_574_976, (28, 2048, 16, 8, 128, 6144, 151_936, True)),
        "4B": (4_022_468_096, (36, 2560, 32, 8, 128, 9728, 151_936, True)),
        "8B": (8_190_735_360, (36, 4096, 32, 8, 128, 12_288, 151_936, False)),
        "14B": (14_768_307_200, (40, 5120, 40, 8, 128, 17_408, 151_936, False)),
        "32B": (32_762_123_264, (64, 5120, 64, 8, 128, 25_600, 151_936, False)),
    },
)
_QWEN3_MIXTURE = _Family(
    name="qwen3-moe",
    description="Qwen3 mixture of experts",
    factory="mixtures:qwen_mixture",
    columns=("n_layer", "hidden", "n_head", "n_kv_head", "head_dim", "ffn", "n_expert", "top_k", "vocab"),
    seq=256,
    rows={
        "30B-A3B": (30_532_122_624, (48, 2048, 32, 4, 128, 768, 128, 8, 151_936)),
        "235B-A22B": (235_093_634_560, (94, 4096, 64, 4, 128, 1536, 128, 8, 151_936)),
    },
)
# https://arxiv.org/abs/2401.04088; 39M is no published model: one that a laptop trains.
_MIXTRAL = _Family(
    name="mixtral",
    description="Mixtral mixture of experts",
    factory="mixtures:mixtral",
    columns=("n_layer", "hidden", "n_head", "n_kv_head", "ffn", "n_expert", "top_k", "vocab"),
    seq=256,
    rows={
        "39M": (39_069_952, (4, 256, 8, 2, 896, 8, 2, 32_000)),
        "8x7B": (46_702_792_704, (32, 4096, 32, 8, 14_336, 8, 2, 32_000)),
        "8x22B": (140_630_071_296, (56, 6144, 48, 8, 16_384, 8, 2, 32_768)),
    },
)
# https://arxiv.org/abs/2412.19437; 28M is no published model. V3's published 671,026,419,200 count the biases of its
# routers, 58 × 256, which training sets without a gradient: they are buffers here.
_DEEPSEEK = _Family(
    name="deepseek",
    description="DeepSeek-V3 mixture of experts with latent attention, without multi-token prediction",
    factory="mixtures:deepseek",
    columns=(
        "n_layer", "n_dense_layer", "hidden", "n_head", "query_rank", "key_value_rank", "rope_dim", "plain_dim",
        "value_dim", "ffn", "expert_ffn", "n_expert", "n_shared_expert", "top_k", "n_group", "top_group", "vocab",
    ),
    seq=256,
    rows={
        "28M": (27_933_568, (4, 1, 256, 8, 96, 64, 16, 32, 32, 1024, 256, 16, 1, 4, 4, 2, 32_000)),
        "V3": (671_026_404_352, (61, 3, 7168, 128, 1536, 512, 64, 128, 128, 18_432, 2048, 256, 1, 8, 8, 4, 129_280)),
    },
)  # fmt: skip

# GPT-2: the model cards of openai-community; GPT-3: Table 2.1 of https://arxiv.org/abs/2005.14165, whose learned
# positions and vocabulary are GPT-2's. 13B is 5120 wide, where the paper prints 5140.
_GPT: dict[str, tuple[int, int, int, int, int]] = {
    "gpt2": (124_439_808, 12, 768, 12, 1024),
    "gpt2-medium": (354_823_168, 24, 1024, 16, 1024),
    "gpt2-large": (774_030_080, 36, 1280, 20, 1024),
    "gpt2-xl": (1_557_611_200, 48, 1600, 25, 1024),
    "gpt3-125m": (125_226_240, 12, 768, 12, 2048),
    "gpt3-350m": (355_871_744, 24, 1024, 16, 2048),
    "gpt3-760m": (760_300_032, 24, 1536, 16, 2048),
    "gpt3-1.3b": (1_315_723_264, 24, 2048, 16, 2048),
    "gpt3-2.7b": (2_651_553_280, 32, 2560, 32, 2048),
    "gpt3-6.7b": (6_658_404_352, 32, 4096, 32, 2048),
    "gpt3-13b": (12_853_386_240, 40, 5120, 40, 2048),
    "gpt3-175b": (174_604_259_328, 96, 12_288, 96, 2048),
}


def _gpt(name: str) -> ZooModel:
    parameters, n_layer, hidden, n_head, positions = _GPT[name]
    return ZooModel(
        name=name,
        description="GPT-2, language model, tied head; Conv1D as Linear; dropout 0; vocabulary shared by ranks",
        factory=f"{_ZOO}.decoders:gpt2",
        sizes={
            "n_layer": n_layer, "hidden": hidden, "n_head": n_head, "ffn": 4 * hidden, "vocab": 50_257,
            "positions": positions, "seq": 128,
        },
        default_batch=8 if parameters < 1e9 else 1,
        parameters=parameters,
    )  # fmt: skip


def _all() -> Iterable[ZooModel]:
    yield from map(_gpt, _GPT)
    yield from (model for model in _LLAMA.models() if model.name != "llama-3-70b")  # llama3-70b, as the others of it
    yield from (_LLAMA.model(name, size) for name, size in _LLAMA3.items())
    yield from _QWEN2.models()
    yield from _QWEN3.models()
    yield from (_QWEN3_MIXTURE.model(f"qwen3-{size.lower()}", size) for size in _QWEN3_MIXTURE.rows)
    yield from _MIXTRAL.models()
    yield from _DEEPSEEK.models()


LANGUAGE_MODELS = tuple(_all())
"""In the order in which a list shows them."""
