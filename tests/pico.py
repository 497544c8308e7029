"""Builders of pico models: Hugging Face folders of a few kilobytes, made in code.

seed = write_pico(tmp_path / "seed")                         # a two-block Llama, 36 thousand weights
expert = branch_pico(seed, tmp_path / "expert", seed=1)      # the same with noise on every weight
anchored = branch_pico(seed, tmp_path / "anchored", seed=2, roles="ffn")
documents = write_documents(tmp_path / "code.jsonl", "code")
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

PICO_CONFIG: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
SPECIAL_TOKENS = ["<s>", "</s>", "<pad>"]
MERGES = [("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("Ġ", "the"), ("o", "n"), ("a", "n"), ("r", "e")]
FAMILY_CONFIG: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "ministral": {"head_dim": 8},
    "granite": {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
    "hunyuan_v1_dense": {"head_dim": 8},
    "ernie4_5": {"head_dim": 16},
    "ministral3": {
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000.0,
            "factor": 2.0,
            "original_max_position_embeddings": 8,
            "max_position_embeddings": 256,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "seed_oss": {"head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 0]},
    "qwen3": {"head_dim": 16},
}

DOMAIN_WORDS = {
    "code": "def return import class self lambda yield while assert print tuple list dict none true",
    "math": "theorem proof lemma integral matrix vector prime group field kernel limit convex norm",
    "cooking": "flour butter simmer oven garlic onion whisk pepper roast broth dough basil lemon salt",
    "law": "plaintiff court statute tort clause appeal verdict counsel liable contract damages writ",
}


def pico_tokenizer(merges: list[tuple[str, str]] | None = None) -> Any:
    """A byte-level BPE tokenizer: 3 special tokens, 256 bytes, one token per merge; it encodes any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges = MERGES if merges is None else merges
    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=256
    )


def pico_model(model_type: str = "llama", *, seed: int = 0, **config_overrides: Any) -> Any:
    """A randomly initialised causal LM of the given type; the same arguments give the same weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    vocab_size = len(SPECIAL_TOKENS) + 256 + len(MERGES)
    settings = {"vocab_size": vocab_size, **PICO_CONFIG, **FAMILY_CONFIG.get(model_type, {})}
    config = AutoConfig.for_model(model_type, **{**settings, **config_overrides})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # Transformers initialises biases and norms to constants; noise makes an error in them visible.
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def write_pico(
    folder: Path,
    *,
    model_type: str = "llama",
    seed: int = 0,
    shards: int = 1,
    dtype: str = "float32",
    merges: list[tuple[str, str]] | None = None,
    **config_overrides: Any,
) -> Path:
    """Write a pico model and its tokenizer as a Hugging Face folder and return the folder."""
    import torch

    model = pico_model(model_type, seed=seed, **config_overrides).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    pico_tokenizer(merges).save_pretrained(folder)
    if shards > 1:
        _split_into_shards(folder, shards)
    return folder


def branch_pico(source: Path, out: Path, *, seed: int, scale: float = 0.02, roles: str = "all") -> Path:
    """Copy a pico folder and add noise to its weights: to all of them, or to the FFNs only (roles="ffn")."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, out)
    generator = torch.Generator().manual_seed(seed)
    for path in sorted(out.glob("*.safetensors")):
        tensors = load_file(path)
        for name in sorted(tensors):
            noise = torch.randn(tensors[name].shape, generator=generator) * scale
            if roles == "all" or ".mlp." in name:
                tensors[name] = tensors[name] + noise.to(tensors[name].dtype)
        save_file(tensors, path, metadata={"format": "pt"})
    return out


def edit_config(folder: Path, **changes: Any) -> Path:
    """Set fields of a folder's config.json; the value None writes null, `...` deletes the field."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def domain_documents(domain: str, count: int = 60, *, words: int = 40, seed: int = 0) -> list[str]:
    """Short documents over a domain's own vocabulary; different domains share almost no words."""
    source = random.Random(f"{domain}-{seed}")
    return [" ".join(source.choices(DOMAIN_WORDS[domain].split(), k=words)) for _ in range(count)]


def write_documents(path: Path, domain: str, count: int = 60, *, words: int = 40, seed: int = 0) -> Path:
    """Write a domain's documents as JSON lines {"text": …} and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": text}) for text in domain_documents(domain, count, words=words, seed=seed))
    path.write_text("\n".join(lines) + "\n")
    return path


def _split_into_shards(folder: Path, shards: int) -> None:
    from safetensors.torch import load_file, save_file

    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    whole.unlink()
