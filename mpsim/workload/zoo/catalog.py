"""The list of the zoo: names, sizes and parameters, readable without torch."""

from __future__ import annotations

from collections.abc import Mapping

from mpsim.workload.zoo.model import Size, ZooModel

__all__ = ["ZOO"]

_ZOO = "mpsim.workload.zoo"
_IMAGENET = 1_281_167
_IMAGE_SIZES: dict[str, Size] = {"image": 224, "classes": 1000}
_LLAMA_NAMES = ("n_layer", "hidden", "n_head", "n_kv_head", "ffn", "vocab", "tied")

# 15M to 110M: the models that github.com/karpathy/llama2.c was made for. 7B, 13B, 70B: Llama 2
# (https://arxiv.org/abs/2307.09288); 8B, 405B, and 1B, 3B: Llama 3, 3.1 and 3.2 (https://arxiv.org/abs/2407.21783).
_LLAMA: dict[str, tuple[int, tuple[Size, ...]]] = {
    "15M": (15_191_712, (6, 288, 6, 6, 768, 32_000, True)),
    "42M": (41_689_600, (8, 512, 8, 8, 1376, 32_000, True)),
    "110M": (109_529_856, (12, 768, 12, 12, 2048, 32_000, True)),
    "1B": (1_235_814_400, (16, 2048, 32, 8, 8192, 128_256, True)),
    "3B": (3_212_749_824, (28, 3072, 24, 8, 8192, 128_256, True)),
    "7B": (6_738_415_616, (32, 4096, 32, 32, 11_008, 32_000, False)),
    "8B": (8_030_261_248, (32, 4096, 32, 8, 14_336, 128_256, False)),
    "13B": (13_015_864_320, (40, 5120, 40, 40, 13_824, 32_000, False)),
    "70B": (68_976_648_192, (80, 8192, 64, 8, 28_672, 32_000, False)),
    "405B": (405_853_388_800, (126, 16_384, 128, 8, 53_248, 128_256, False)),
}
_PRESETS: dict[str, Mapping[str, Size]] = {
    size: dict(zip(_LLAMA_NAMES, values, strict=True)) for size, (_, values) in _LLAMA.items()
}


def _llama(name: str, size: str, batch: int) -> ZooModel:
    return ZooModel(
        name=name,
        description=f"Llama decoder, {size} (size=… for others); language model; vocabulary shared by ranks",
        factory=f"{_ZOO}.decoders:llama",
        sizes={"size": size, **_PRESETS[size], "seq": 256},
        presets=_PRESETS,
        default_batch=batch,
        parameters=_LLAMA[size][0],
    )


_MODELS = (
    ZooModel(
        name="mnist-mlp",
        description="perceptron 784-256-128-64-10, ReLU, log-softmax, negative log-likelihood",
        factory=f"{_ZOO}.multilayer:mnist_mlp",
        sizes={"widths": (784, 256, 128, 64, 10)},
        default_batch=8192,
        dataset_samples=60_000,
        parameters=242_762,
    ),
    ZooModel(
        name="lenet5",
        description="LeNet-5 on 28 × 28 grey images; no tensor-parallel form",
        factory=f"{_ZOO}.convolutional:lenet5",
        sizes={"classes": 10},
        default_batch=256,
        dataset_samples=60_000,
        parameters=61_706,
    ),
    ZooModel(
        name="vgg16",
        description="VGG-16 without batch normalisation; dropout 0; no tensor-parallel form",
        factory=f"{_ZOO}.convolutional:vgg16",
        sizes={**_IMAGE_SIZES, "width": 64, "fully_connected": 4096},
        default_batch=8,
        dataset_samples=_IMAGENET,
        parameters=138_357_544,
    ),
    ZooModel(
        name="resnet50",
        description="ResNet-50 with batch normalisation; no tensor-parallel form",
        factory=f"{_ZOO}.residual:resnet50",
        sizes={**_IMAGE_SIZES, "width": 64, "blocks": (3, 4, 6, 3)},
        default_batch=8,
        dataset_samples=_IMAGENET,
        parameters=25_557_032,
    ),
    ZooModel(
        name="unet",
        description="U-Net with skip connections, padded convolutions, a class for each pixel; no tensor-parallel form",
        factory=f"{_ZOO}.segmentation:unet",
        sizes={"image": 256, "channels": 1, "classes": 2, "width": 64, "depth": 4},
        default_batch=2,
        parameters=31_030_658,
    ),
    ZooModel(
        name="bert-base",
        description="BERT, masked language model over every token; dropout 0; embeddings and head replicated",
        factory=f"{_ZOO}.encoders:bert",
        sizes={
            "n_layer": 12, "hidden": 768, "n_head": 12, "ffn": 3072, "vocab": 30_522, "positions": 512, "seq": 128,
        },
        default_batch=8,
        parameters=109_514_298,
    ),
    ZooModel(
        name="gpt2",
        description="GPT-2, language model, tied head; Conv1D as Linear; dropout 0; embeddings and head replicated",
        factory=f"{_ZOO}.decoders:gpt2",
        sizes={
            "n_layer": 12, "hidden": 768, "n_head": 12, "ffn": 3072, "vocab": 50_257, "positions": 1024, "seq": 128,
        },
        default_batch=8,
        parameters=124_439_808,
    ),
    ZooModel(
        name="vit-b16",
        description="ViT-B/16, image classification; dropout 0; embeddings and head replicated",
        factory=f"{_ZOO}.encoders:vit",
        sizes={**_IMAGE_SIZES, "patch": 16, "n_layer": 12, "hidden": 768, "n_head": 12, "ffn": 3072},
        default_batch=8,
        dataset_samples=_IMAGENET,
        parameters=86_567_656,
    ),
    ZooModel(
        name="t5-small",
        description="T5, encoder and decoder that reads it, tied head; dropout 0; vocabulary shared by ranks",
        factory=f"{_ZOO}.translation:t5",
        sizes={
            "n_layer": 6, "n_decoder_layer": 6, "hidden": 512, "n_head": 8, "head_dim": 64, "ffn": 2048,
            "vocab": 32_128, "seq": 128, "target_seq": 128,
        },
        default_batch=8,
        parameters=60_506_624,
    ),
    _llama("llama", "15M", 8),
    *(_llama(f"llama-{size.lower()}", size, 8 if size.endswith("M") else 1) for size in _LLAMA),
)  # fmt: skip

ZOO: dict[str, ZooModel] = {model.name: model for model in _MODELS}
"""Name to model. A model is added by one line here and one function that builds it."""
