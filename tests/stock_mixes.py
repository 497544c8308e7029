"""Mixes of pico seeds with real prompts, and their next-token probabilities in the readers of an export.

mix = VARIANTS["qwen2-tied"].make(registry, tmp_path)
mix = make_mix(registry, tmp_path, "qwen2", settings={"combine": "additive"})
reader = exported(registry, tmp_path, dtype="q8_0")    # llama.cpp with the exported GGUF file
assert largest_difference(mix, reader) < CLOSE["q8_0"]
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pico
import torch
from llama_cpp import LlamaCpp
from random_context import publish_random_context

from composer.composition import compose
from composer.formats import export
from composer.mix.opening import OpenMix, find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from registry.home import Registry
from registry.intake.intake import add_seed, contribute

ROOT = Path(__file__).parents[1]
PROSE = (ROOT / "LICENSE").read_text(encoding="utf-8")
PROMPTS = ["def area(radius):\n    return 3.14", "The theorem, she said, isn't", PROSE[:300]]
# Texts on which tokenizers differ: runs of spaces and digits, contractions, scripts, marks, composed symbols.
HARD = """It's WE'LL they'd  two   spaces\tand\ttabs \n\n  12345 1,234.5 x²½Ⅷ ٣٤٥\r\n
été Straße naïve e\u0301te\u0301 你好，世界 こんにちは 안녕
مرحبا नमस्ते Привет 👩🏽‍💻🇩🇪 ‘curly’ — …\u00a0nbsp\u2003em   \n"""
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CLOSE = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2, "q8_0": 0.2}  # of a log-probability


class Reader(Protocol):
    """Software that reads an export."""

    def top_log_probs(self, ids: list[int], *, count: int) -> dict[int, float]:
        """The likeliest next tokens and their natural log-probabilities."""
        ...

    def greedy(self, ids: list[int], *, count: int) -> list[int]:
        """The next `count` tokens, each the likeliest."""
        ...


class Transformers:
    """A stock model that transformers loads from a folder, computed in float32; no tensor is missing or unknown."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model, info = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype="float32"
        )
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        assert not type(self.model).__module__.startswith("composer")

    def top_log_probs(self, ids: list[int], *, count: int) -> dict[int, float]:
        """The likeliest next tokens and their natural log-probabilities."""
        with torch.inference_mode():
            top = self.model(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1).topk(count)
        return dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))

    def greedy(self, ids: list[int], *, count: int) -> list[int]:
        """The next `count` tokens, each the likeliest, by its own generation with a cache."""
        return generated(self.model, ids, count)


def make_tokenizer(
    pre_tokenizer: dict[str, Any] | None = None,
    *,
    merge_words: bool = False,
    begin: bool = False,
    template: str | None = None,
    normalizer: dict[str, Any] | None = None,
) -> Any:
    """A tokenizer of 400 tokens, trained on LICENSE and HARD."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts = json.loads(tokenizer.to_str())
    parts |= {"normalizer": normalizer} | ({"pre_tokenizer": pre_tokenizer} if pre_tokenizer else {})
    parts["model"]["ignore_merges"] = merge_words
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=pico.SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([PROSE, HARD], trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = template
    return fast


def make_mix(
    registry: Registry,
    root: Path,
    model_type: str = "llama",
    *,
    settings: dict[str, Any] | None = None,
    dtype: str = "float32",
    **config: Any,
) -> OpenMix:
    """An open mix, in float32, of two experts of a pico seed with a tokenizer of 400 tokens."""
    shape = {"vocab_size": 400, "initializer_range": 0.2, **config}
    seed = pico.write_pico(root / "seed", model_type=model_type, dtype=dtype, **shape)
    make_tokenizer().save_pretrained(seed)
    return mix_of(registry, root, seed, **(settings or {}))


def mix_of(registry: Registry, root: Path, seed: Path, **settings: Any) -> OpenMix:
    """An open mix, in float32, of two noisy copies of a seed."""
    add_seed(registry, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number, scale=0.1)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    settings = {"trunk_merge": "regmean", **settings}
    untrained = Training(warm_start=False, tokens=0)
    compose(
        registry, Recipe(name="mix", seed="pico", experts=["code", "math"], training=untrained, **settings)
    )
    return open_mix(registry, find_mix(registry, "mix")[1], dtype=torch.float32)


def exported(registry: Registry, root: Path, **options: Any) -> LlamaCpp:
    """llama.cpp with the GGUF file of the mix, exported to the folder `out`."""
    export(registry, "mix", root / "out", format="gguf", **options)
    return LlamaCpp(root / "out" / "model.gguf")


def largest_difference(
    mix: OpenMix, reader: Reader, prompts: Iterable[str] = PROMPTS, count: int = 5
) -> float:
    """Largest difference of the log-probabilities of the likeliest next tokens, over all prompts."""
    worst = 0.0
    for prompt in prompts:
        ids = mix.tokenizer(prompt)["input_ids"][:200]
        with torch.inference_mode():
            ours = mix.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(dim=-1)
        theirs = reader.top_log_probs(ids, count=count)
        assert set(ours.topk(1).indices.tolist()) <= set(theirs)
        worst = max(worst, *(abs(ours[i].item() - value) for i, value in theirs.items()))
    return worst


def generated(model: Any, ids: list[int], count: int) -> list[int]:
    """The next `count` tokens that a model generates greedily."""
    settings = {"max_new_tokens": count, "do_sample": False, "eos_token_id": -1, "pad_token_id": 2}
    prompt = torch.tensor([ids])
    # Without a mask, `generate` takes every pad token in the prompt for padding. In some chat templates it ends a turn.
    mask = torch.ones_like(prompt)
    written: list[int] = model.generate(prompt, attention_mask=mask, **settings)[0].tolist()
    return written[len(ids) :]


@dataclass(frozen=True)
class Variant:
    """A mix that stock readers must compute: the seed's type and configuration, and the mix's settings.

    `gguf`: llama.cpp has an architecture for it.
    """

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    gguf: bool = True

    @property
    def format(self) -> str:
        """The stock format of the seed's family for transformers."""
        return "qwen3_next" if self.model_type == "qwen3" else "qwen2_moe"

    def make(self, registry: Registry, root: Path) -> OpenMix:
        """An open mix named `mix`. Gates that read the context have random weights."""
        mix = make_mix(registry, root, self.model_type, settings=self.settings, **self.config)
        return (
            publish_random_context(registry, "mix") if self.settings.get("router") == "nexus_context" else mix
        )


_ADDITIVE, _TOP_2 = {"combine": "additive"}, {"top_k": 2}
_TIED, _HEADS, _BF16 = {"tie_word_embeddings": True}, {"num_key_value_heads": 4}, {"dtype": "bfloat16"}
_NO_WINDOW, _CONTEXT = {"sliding_window": None}, {"router": "nexus_context"}
VARIANTS = {
    "llama": Variant("llama"),
    "llama-additive": Variant("llama", {}, _ADDITIVE),
    "llama-tied": Variant("llama", _TIED),
    "llama-additive-tied": Variant("llama", _TIED, _ADDITIVE),
    "llama-top-2-heads": Variant("llama", _HEADS, _TOP_2),
    "llama-additive-top-2-null": Variant("llama", _TIED | _HEADS, _ADDITIVE | _TOP_2 | {"null_experts": 1}),
    "llama-bf16": Variant("llama", _BF16),
    "llama-linear-router": Variant("llama", {}, {"router": "linear"}),
    "llama-rope-llama3": Variant("llama", {"rope_parameters": LLAMA3}),
    "llama-rope-llama3-context-padded-top-2": Variant(
        "llama",
        {"rope_parameters": LLAMA3, "hidden_size": 40, "head_dim": 10},
        {"router": "nexus_context", "combine": "additive", "top_k": 2},
    ),
    "llama-padded-width": Variant("llama", {"hidden_size": 40, "head_dim": 10}),
    "llama-padded-heads": Variant("llama", {"hidden_size": 64, "head_dim": 8}, _ADDITIVE | _TOP_2),
    "llama-context": Variant("llama", {}, _CONTEXT),
    "llama-context-additive-tied-heads": Variant("llama", _TIED | _HEADS, _CONTEXT | _ADDITIVE),
    "mistral-top-2-heads": Variant("mistral", _NO_WINDOW | _HEADS, _ADDITIVE | _TOP_2),
    "mistral-padded": Variant("mistral", {**_NO_WINDOW, "hidden_size": 48, "intermediate_size": 40}),
    "ministral-additive": Variant("ministral", {"layer_types": ["full_attention"] * 2}, _ADDITIVE),
    "qwen2-tied": Variant("qwen2", _TIED),
    "qwen2-additive-bf16": Variant("qwen2", _HEADS | _BF16, _ADDITIVE),
    "qwen2-context": Variant("qwen2", _HEADS, _CONTEXT),
    "granite-tied-top-2": Variant("granite", _TIED, _TOP_2),
    "granite-additive": Variant("granite", _HEADS, _ADDITIVE),
    "qwen3": Variant("qwen3"),
    "qwen3-additive-tied-top-2-heads": Variant("qwen3", _TIED | _HEADS, _ADDITIVE | _TOP_2),
    "qwen3-bf16": Variant("qwen3", _TIED | _BF16),
}
