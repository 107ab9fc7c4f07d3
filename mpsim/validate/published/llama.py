"""Sizes of the models that published tables name, as their authors published them."""

from __future__ import annotations

import re

from mpsim.errors import MpsimError
from mpsim.validate.published.decoder import Decoder, Latent

__all__ = ["named_decoder"]

# Of a name, what says that the model is trained or built another way.
_OTHERWISE = {"mtp", "lora", "qlora", "peft"}
# Llama 2: arXiv 2307.09288; Llama 3 and 3.1: arXiv 2407.21783; Qwen3: arXiv 2505.09388; GPT-OSS: arXiv 2508.10925;
# DeepSeek-V3: arXiv 2412.19437.
_MODELS = {
    "llama2-13b": Decoder(layers=40, hidden=5120, heads=40, kv_heads=40, ffn=13_824, vocabulary=32_000),
    "llama2-70b": Decoder(layers=80, hidden=8192, heads=64, kv_heads=8, ffn=28_672, vocabulary=32_000),
    "llama3-8b": Decoder(layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14_336, vocabulary=128_256),
    "llama3-70b": Decoder(layers=80, hidden=8192, heads=64, kv_heads=8, ffn=28_672, vocabulary=128_256),
    "llama3-405b": Decoder(layers=126, hidden=16_384, heads=128, kv_heads=8, ffn=53_248, vocabulary=128_256),
    "qwen3-30b": Decoder(
        layers=48, hidden=2048, heads=32, kv_heads=4, head_size=128, ffn=768, experts=128, chosen=8, vocabulary=151_936
    ),
    "qwen3-235b": Decoder(
        layers=94, hidden=4096, heads=64, kv_heads=4, head_size=128, ffn=1536, experts=128, chosen=8, vocabulary=151_936
    ),
    "gpt-oss-120b": Decoder(
        layers=36, hidden=2880, heads=64, kv_heads=8, head_size=64, ffn=2880, experts=128, chosen=4, vocabulary=201_088
    ),
    # Its first three blocks have a dense MLP that is as wide as what a token goes through of the others.
    "deepseekv3": Decoder(
        layers=61, hidden=7168, heads=128, kv_heads=128, head_size=160, ffn=2048, experts=256, chosen=8,
        shared_ffn=2048, vocabulary=129_280, latent=Latent(1536, 512, 64, 128, 128),
    ),
}  # fmt: skip


def named_decoder(name: str) -> Decoder:
    """Return the sizes of a model by a name that tables give it.

    Raises
    ------
    MpsimError
        It is not known here.

    Examples
    --------
    >>> named_decoder("Llama 3.1 8B") == named_decoder("LLAMA3_8B")
    True
    """
    text = re.sub(r"llama[ _-]*3\.1", "llama3", name.lower())
    words = re.findall(r"[a-z]+|\d+b|\d+", text)
    for known, decoder in _MODELS.items():
        wanted = re.findall(r"[a-z]+|\d+b|\d+", known)
        if words[: len(wanted)] == wanted and _OTHERWISE.isdisjoint(words):
            return decoder
    raise MpsimError(f"the sizes of {name!r} are not known here: {', '.join(_MODELS)} are")
