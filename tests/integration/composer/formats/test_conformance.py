"""One conformance test: every reader of an export agrees with the mix on real prompts."""

from pathlib import Path
from typing import Any

import pytest
from stock_mixes import CLOSE, PROMPTS, Transformers, exported, generated, largest_difference, make_mix

from composer.formats import export
from registry.home import Registry

CONVEX, ADDITIVE = {"combine": "convex"}, {"combine": "additive"}
TIED, HEADS = {"tie_word_embeddings": True}, {"num_key_value_heads": 4}
NO_WINDOW = {"sliding_window": None}
# The seed's type and configuration, and the mix's settings.
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {}, CONVEX),
    "llama-additive-tied": ("llama", TIED, ADDITIVE),
    "llama-top-2-heads": ("llama", HEADS, {**CONVEX, "top_k": 2}),
    "llama-additive-top-2-null": ("llama", TIED | HEADS, {**ADDITIVE, "top_k": 2, "null_experts": 1}),
    "llama-bf16": ("llama", {"dtype": "bfloat16"}, CONVEX),
    "llama-padded-width": ("llama", {"hidden_size": 40, "head_dim": 10}, CONVEX),
    "llama-padded-heads": ("llama", {"hidden_size": 64, "head_dim": 8}, {**ADDITIVE, "top_k": 2}),
    "mistral-top-2-heads": ("mistral", NO_WINDOW | HEADS, {**ADDITIVE, "top_k": 2}),
    "mistral-padded": ("mistral", {**NO_WINDOW, "hidden_size": 48, "intermediate_size": 40}, CONVEX),
    "qwen2-tied": ("qwen2", TIED, CONVEX),
    "qwen2-additive-bf16": ("qwen2", HEADS | {"dtype": "bfloat16"}, ADDITIVE),
    "granite-tied-top-2": ("granite", TIED, {**CONVEX, "top_k": 2}),
    "granite-additive": ("granite", HEADS, ADDITIVE),
    "qwen3": ("qwen3", {}, CONVEX),
    "qwen3-additive-tied-top-2-heads": ("qwen3", TIED | HEADS, {**ADDITIVE, "top_k": 2}),
    "qwen3-bf16": ("qwen3", TIED | {"dtype": "bfloat16"}, CONVEX),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_reader_agrees_with_the_mix(variant: str, registry: Registry, tmp_path: Path) -> None:
    model_type, config, settings = VARIANTS[variant]
    mix = make_mix(registry, tmp_path, model_type, settings=settings, **config)
    stock = "qwen3_next" if model_type == "qwen3" else "qwen2_moe"
    export(registry, "mix", tmp_path / "stock", format=stock)
    ids = mix.tokenizer(PROMPTS[0])["input_ids"]
    expected = generated(mix.model, ids, 12)
    transformers = Transformers(tmp_path / "stock")
    assert transformers.model.config.hidden_size % 32 == 0
    assert transformers.model.config.moe_intermediate_size % 32 == 0
    for reader in (transformers, exported(registry, tmp_path, dtype="float32")):
        assert largest_difference(mix, reader) < CLOSE["float32"]
        assert reader.greedy(ids, count=12) == expected
