"""Model classes of timm at tiny sizes."""

import importlib.machinery
import sys
import types

import torch
import torch.nn.functional as F  # noqa: N812

from .plain import Case


class _Members(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Anything(types.ModuleType):
    """A module that has any name: timm imports torchvision for its data, which no model here needs."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Members(name, (), {})


def _timm():
    try:
        import torchvision  # noqa: F401
    except ImportError:
        below = (
            "",
            ".ops",
            ".ops.misc",
            ".transforms",
            ".transforms.functional",
            ".datasets",
            ".models",
            ".io",
            ".utils",
        )
        for name in (*below, ".models.feature_extraction"):
            module = _Anything("torchvision" + name)
            module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec("torchvision" + name, None)
            sys.modules["torchvision" + name] = module
            parent, _, child = module.__name__.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
    import timm

    return timm


def image_model(name, size=32, **options):
    def make(batch):
        model = _timm().create_model(name, num_classes=10, **options)
        target = torch.randint(0, 10, (batch,))
        return model, torch.randn(batch, 3, size, size), target, F.cross_entropy

    return make


TIMM = {
    "efficientnet_b0": Case(image_model("efficientnet_b0")),
    "mobilenetv3_small_100": Case(image_model("mobilenetv3_small_100", 64)),
    "regnety_002": Case(image_model("regnety_002")),
    "deit_tiny": Case(image_model("deit_tiny_patch16_224", img_size=32, depth=3)),
    "mixer": Case(image_model("mixer_s32_224", 64, img_size=64)),
    "resnest14d": Case(image_model("resnest14d")),
    "swin_tiny": Case(image_model("swin_tiny_patch4_window7_224", 56, img_size=56, depths=(1, 1, 1, 1))),
    "xcit_nano": Case(image_model("xcit_nano_12_p16_224", 64, depth=3)),
    "poolformer_s12": Case(image_model("poolformer_s12")),
    "hrnet_w18_small": Case(image_model("hrnet_w18_small", 64)),
    "nfnet_l0": Case(image_model("nfnet_l0")),
}
