"""Write Llamas with random weights as Hugging Face folders: python -m bench.random_llamas FOLDER NAME….

By default a model has 317M parameters in bfloat16: 20 layers, hidden size 1024, 16 heads (8 key-value heads), FFN
width 3072, vocabulary 32,000. The weights depend on the name. Existing models are skipped. --like MODEL adds noise to
the weights of another model in place of new weights, as a fine-tune would.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

TEXT = (
    "def",
    "import",
    "class",
    "theorem",
    "proof",
    "matrix",
    "flour",
    "butter",
    "plaintiff",
    "court",
    "statute",
)


NOISE = 0.1  # of the noise that --like adds, relative to the weights


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    layers: int = 20
    hidden: int = 1024
    ffn: int = 3072
    vocabulary: int = 32_000
    heads: int = 16
    kv_heads: int = 8
    tied: bool = False

    def config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "intermediate_size": self.ffn,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            "torch_dtype": "bfloat16",
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the name and shape of each tensor."""
        keys = self.hidden // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        if not self.tied:
            yield "lm_head.weight", (self.vocabulary, self.hidden)
        yield "model.norm.weight", (self.hidden,)
        for layer in range(self.layers):
            block = f"model.layers.{layer}."
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield f"{block}{norm}.weight", (self.hidden,)
            for part, rows in (("q", self.hidden), ("k", keys), ("v", keys), ("o", self.hidden)):
                yield f"{block}self_attn.{part}_proj.weight", (rows, self.hidden)
            for part in ("gate", "up"):
                yield f"{block}mlp.{part}_proj.weight", (self.ffn, self.hidden)
            yield f"{block}mlp.down_proj.weight", (self.hidden, self.ffn)


def write_llama(folder: Path, name: str, shape: Shape, like: str | None = None) -> None:
    """Write config, tokenizer and weights of a model, and a text of its domain."""
    target = folder / name
    if (target / "model.safetensors").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(target)
    (target / "config.json").write_text(json.dumps(shape.config(), indent=2))
    number = zlib.crc32(name.encode())
    generator = torch.Generator().manual_seed(number)
    words = torch.randint(len(TEXT), (40, 60), generator=generator).tolist()
    lines = [json.dumps({"text": " ".join(f"{name} {TEXT[w]}" for w in row)}) for row in words]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    seed = load_file(folder / like / "model.safetensors") if like else {}
    tensors = {}
    for key, size in shape.tensors():
        if len(size) == 1:
            tensors[key] = torch.ones(size, dtype=torch.bfloat16)
            continue
        tensors[key] = torch.empty(size, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)
        if like:
            tensors[key].mul_(NOISE).add_(seed[key])
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _write_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer of 259 tokens, which encodes any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--like")
    for size in fields(Shape):
        kind = {"action": "store_true"} if size.name == "tied" else {"type": int, "default": size.default}
        parser.add_argument(f"--{size.name.replace('_', '-')}", **kind)
    options = vars(parser.parse_args())
    folder, names, like = (options.pop(name) for name in ("folder", "names", "like"))
    for name in names:
        write_llama(folder, name, Shape(**options), like)


if __name__ == "__main__":
    main()
