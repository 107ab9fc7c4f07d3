"""Every model of the zoo in a size that runs in a moment."""

TEXT = {"n_layer": 2, "hidden": 32, "n_head": 4, "ffn": 64, "vocab": 50, "seq": 16}
SMALL = {
    "mnist-mlp": {"widths": (20, 16, 12, 8, 4)},
    "lenet5": {},
    "vgg16": {"image": 32, "width": 4, "fully_connected": 16, "classes": 4},
    "resnet50": {"image": 32, "width": 8, "classes": 4, "blocks": (1, 2)},
    "unet": {"image": 32, "width": 4, "depth": 3},
    "bert-base": TEXT,
    "gpt2": TEXT,
    "vit-b16": {"n_layer": 2, "hidden": 32, "n_head": 4, "ffn": 64, "image": 32, "classes": 4},
    "t5-small": {**TEXT, "n_decoder_layer": 2, "head_dim": 8, "target_seq": 12},
    "llama": {**TEXT, "n_kv_head": 2},
    "qwen2.5": {**TEXT, "n_kv_head": 2},
    "qwen3": {**TEXT, "n_kv_head": 2, "head_dim": 16},
    "qwen3-30b-a3b": {**TEXT, "n_kv_head": 2, "head_dim": 16, "ffn": 16, "n_expert": 8, "top_k": 2},
    "mixtral": {**TEXT, "n_kv_head": 2, "n_expert": 4, "top_k": 2},
    "deepseek": {
        **TEXT, "query_rank": 16, "key_value_rank": 8, "rope_dim": 4, "plain_dim": 8, "value_dim": 8,
        "expert_ffn": 16, "n_expert": 8, "top_k": 2,
    },
    "dlrm": {"rows": (30, 20, 10), "features": 8, "bottom": (16,), "top": (16,), "pooling": 2},
}  # fmt: skip
