"""The list of the zoo: names, sizes and parameters, readable without torch."""

from __future__ import annotations

from mpsim.workload.zoo.language import LANGUAGE_MODELS
from mpsim.workload.zoo.model import Size, ZooModel

__all__ = ["ZOO"]

_ZOO = "mpsim.workload.zoo"
_IMAGENET = 1_281_167
_IMAGE_SIZES: dict[str, Size] = {"image": 224, "classes": 1000}
# Values of the 26 columns of Criteo's Kaggle data, as https://arxiv.org/abs/1906.00091 embeds them: 540M parameters.
_CRITEO_ROWS = (
    1460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5683, 8_351_593, 3194, 27, 14_992, 5_461_306,
    10, 5652, 2173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572,
)  # fmt: skip
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
        description="BERT, masked language model over every token; dropout 0; vocabulary shared by ranks",
        factory=f"{_ZOO}.encoders:bert",
        sizes={
            "n_layer": 12, "hidden": 768, "n_head": 12, "ffn": 3072, "vocab": 30_522, "positions": 512, "seq": 128,
        },
        default_batch=8,
        parameters=109_514_298,
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
    ZooModel(
        name="dlrm",
        description="DLRM of Criteo's advertisements, click or not; dense gradients; tables replicated by ranks",
        factory=f"{_ZOO}.recommendation:dlrm",
        sizes={
            "rows": _CRITEO_ROWS, "features": 16, "dense": 13, "bottom": (512, 256, 64), "top": (512, 256),
            "pooling": 1,
        },
        default_batch=128,
        dataset_samples=39_291_954,
        parameters=540_677_217,
    ),
    *LANGUAGE_MODELS,
)  # fmt: skip

ZOO: dict[str, ZooModel] = {model.name: model for model in _MODELS}
"""Name to model. A model is added by one line here and one function that builds it."""
