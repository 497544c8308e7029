"""Compare exported mixes in several readers: python -m bench.conformance [--environment LIBRARY=DIR] [--mix HOME MIX].

The mixes are the variants of tests/stock_mixes.py, pico seeds with random weights, and those given with --mix. In
every row transformers reads the stock format and llama.cpp reads the GGUF file. Other environments read the stock
format too: `transformers=DIR` for another version, `vllm=DIR` for vLLM. Each cell is the largest difference of a
log-probability from the mix's, over the five likeliest next tokens after each prompt. ≠: the 12 greedy tokens differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.elsewhere import Elsewhere
from composer.errors import ExportError
from composer.formats import export
from composer.formats.expressible import FORMATS
from composer.mix.opening import OpenMix, find_mix, open_mix, seed_config
from registry.home import Registry, open_registry

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from llama_cpp import LlamaCpp
from stock_mixes import PROMPTS, VARIANTS, Reader, Transformers, generated, largest_difference


def cell(mix: OpenMix, reader: Reader) -> str:
    """The largest difference of a log-probability, marked if the greedy tokens differ."""
    ids = mix.tokenizer(PROMPTS[0])["input_ids"]
    same = reader.greedy(ids, count=12) == generated(mix.model, ids, 12)
    return f"{largest_difference(mix, reader):.1e}{'' if same else ' ≠'}"


def cells(
    registry: Registry, ref: str, mix: OpenMix, others: list[tuple[str, Path]], dtypes: list[str]
) -> Iterator[str]:
    """Export a mix for each reader in turn, and yield its cell."""
    with tempfile.TemporaryDirectory(prefix="nexusmix-") as temporary:
        root = Path(temporary)
        family = seed_config(registry.blobs, mix.manifest.seed)["model_type"]
        export(registry, ref, root / "stock", format=FORMATS[family], dtype="float32")
        yield cell(mix, Transformers(root / "stock"))
        for library, environment in others:
            with Elsewhere(environment, library, root / "stock") as reader:
                yield cell(mix, reader)
    for dtype in dtypes:
        with tempfile.TemporaryDirectory(prefix="nexusmix-") as temporary:
            try:
                export(registry, ref, Path(temporary) / "out", format="gguf", dtype=dtype)
            except ExportError:
                yield "refused"
                continue
            yield cell(mix, LlamaCpp(Path(temporary) / "out" / "model.gguf"))


def mixes(
    names: list[str], changes: dict[str, Any], real: list[tuple[str, str]]
) -> Iterator[tuple[str, Registry, str, OpenMix]]:
    """Yield each mix with its title, its registry and its reference there, open in float32."""
    import torch

    for name in names:
        with tempfile.TemporaryDirectory(prefix="nexusmix-") as temporary, ExitStack() as stack:
            registry = open_registry(Path(temporary) / "home", embedder="hashing:16")
            stack.callback(registry.engine.dispose)
            variant = VARIANTS[name]
            variant = replace(variant, config={**variant.config, **changes})
            yield name, registry, "mix", variant.make(registry, Path(temporary))
    for home, ref in real:
        registry = open_registry(Path(home))
        yield ref, registry, ref, open_mix(registry, find_mix(registry, ref)[1], dtype=torch.float32)
        registry.engine.dispose()


def environment(text: str) -> tuple[str, Path]:
    """Read LIBRARY=DIR."""
    library, _, folder = text.partition("=")
    return library, Path(folder)


def main() -> None:
    """Print a Markdown table with one row per mix and one column per reader."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", type=environment, action="append", default=[], metavar="LIBRARY=DIR")
    parser.add_argument("--dtypes", nargs="*", default=["float32", "float16", "bfloat16", "q8_0"])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument(
        "--seeds", type=json.loads, default={}, metavar="JSON", help="settings of every seed's config.json"
    )
    parser.add_argument("--mix", nargs=2, action="append", default=[], metavar=("HOME", "MIX"))
    arguments = parser.parse_args()
    others = [library for library, _ in arguments.environment]
    readers = ["transformers", *others, *(f"llama.cpp {dtype}" for dtype in arguments.dtypes)]
    print("| mix | " + " | ".join(readers) + " |\n|" + "---|" * (len(readers) + 1))
    for title, registry, ref, mix in mixes(arguments.variants, arguments.seeds, arguments.mix):
        found = cells(registry, ref, mix, arguments.environment, arguments.dtypes)
        print(f"| {title} | " + " | ".join(found) + " |", flush=True)


if __name__ == "__main__":
    main()
