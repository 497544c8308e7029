"""Write Llamas with random weights as Hugging Face folders: python -m bench.random_llamas FOLDER NAME….

By default a model has 317M parameters in bfloat16: 20 layers, hidden size 1024, 16 heads (8 key-value heads), FFN
width 3072, vocabulary 32,000. The weights depend on the name. Existing models are skipped.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

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


def write_llama(folder: Path, name: str, *, layers: int, hidden: int, ffn: int, vocabulary: int) -> None:
    """Write config, tokenizer and weights of a model, and a text of its domain."""
    target = folder / name
    if (target / "model.safetensors").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(target)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": ffn,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "torch_dtype": "bfloat16",
    }
    (target / "config.json").write_text(json.dumps(config, indent=2))
    number = zlib.crc32(name.encode())
    generator = torch.Generator().manual_seed(number)
    words = torch.randint(len(TEXT), (40, 60), generator=generator).tolist()
    lines = [json.dumps({"text": " ".join(f"{name} {TEXT[w]}" for w in row)}) for row in words]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    tensors = {
        key: torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) == 1
        else torch.randn(shape, generator=generator).mul_(0.02).to(torch.bfloat16)
        for key, shape in _shapes(layers, hidden, ffn, vocabulary)
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _shapes(layers: int, hidden: int, ffn: int, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    yield "lm_head.weight", (vocabulary, hidden)
    yield "model.norm.weight", (hidden,)
    for layer in range(layers):
        block = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{block}{norm}.weight", (hidden,)
        for part, rows in (("q", hidden), ("k", hidden // 2), ("v", hidden // 2), ("o", hidden)):
            yield f"{block}self_attn.{part}_proj.weight", (rows, hidden)
        for part in ("gate", "up"):
            yield f"{block}mlp.{part}_proj.weight", (ffn, hidden)
        yield f"{block}mlp.down_proj.weight", (hidden, ffn)


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
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--ffn", type=int, default=3072)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    options = vars(parser.parse_args())
    folder, names = options.pop("folder"), options.pop("names")
    for name in names:
        write_llama(folder, name, **options)


if __name__ == "__main__":
    main()
