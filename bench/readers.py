"""Time one mix in its readers: python -m bench.readers [--tokens N] [--rounds N].

The mix is that of bench.conformance: the demo's seed with two noisy experts, convex, top-1. Each round generates N
tokens greedily with every reader in turn, on one thread. It prints tokens per second and the size of each export.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.conformance import TEXTS, LlamaCpp, make_mix
from composer.formats import export


def size(folder: Path) -> float:
    """Size of a folder's weights in MB."""
    return sum(p.stat().st_size for p in folder.iterdir() if p.suffix in (".safetensors", ".gguf")) / 1e6


def main() -> None:
    """Print a Markdown table with one row per reader."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="nexusmix-") as temporary:
        root = Path(temporary)
        registry, mix = make_mix(root, tied=True, combine="convex")
        ids = mix.tokenizer(TEXTS[0])["input_ids"][:32]
        readers: dict[str, tuple[Path, Callable[[], object]]] = {}

        def with_transformers(name: str, folder: Path, **options: bool) -> None:
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **options).eval()
            settings = {"min_new_tokens": arguments.tokens, "max_new_tokens": arguments.tokens}
            readers[name] = folder, lambda: model.generate(torch.tensor([ids]), do_sample=False, **settings)

        for format, options in (("nexus", {"trust_remote_code": True}), ("qwen2_moe", {})):
            export(registry, "mix", root / format, format=format)
            with_transformers(f"transformers, {format}", root / format, **options)
        for dtype in ("float32", "q8_0"):
            export(registry, "mix", root / dtype, format="gguf", dtype=dtype)
            reader = LlamaCpp(root / dtype / "model.gguf")
            readers[f"llama.cpp, {dtype}"] = (
                root / dtype,
                lambda reader=reader: reader.write(ids, arguments.tokens),
            )
        speeds: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(arguments.rounds):
            for name, (_, write) in readers.items():
                start = time.perf_counter()
                write()
                speeds[name].append(arguments.tokens / (time.perf_counter() - start))
        print("| reader | tokens/s (lowest–highest) | weights, MB |\n|---|---|---|")
        for name, (folder, _) in readers.items():
            found = sorted(speeds[name])
            spread = f"{statistics.median(found):.0f} ({found[0]:.0f}–{found[-1]:.0f})"
            print(f"| {name} | {spread} | {size(folder):.1f} |")
        registry.engine.dispose()


if __name__ == "__main__":
    main()
