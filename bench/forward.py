"""Tokens per second of a mix and others: python -m bench.forward HOME MIX [EXPORT] [--against MIX …] [--batch 8].

One process loads the dense seed, the mix, other mixes and the mix's Qwen2-MoE export, and times them in turn: A B C
A B C. The export runs once per experts implementation of transformers. The output is JSON with the median tokens/s of
each contender.
`mix_over` is the mix's tokens/s divided by the contender's: its median, least and largest value over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.processes import load_average, note
from composer.generation import CACHE
from composer.mix.opening import find_mix, open_dense, open_mix
from registry.home import open_registry

STOCK = ("eager", "grouped_mm", "batched_mm")
DECODED = 4  # tokens per timing of the decode path
PROMPT = 4
GATHERS = (
    "batched_mm"  # decoding only: it copies an expert's weights per token, so a prefill exhausts the memory
)


def contenders(
    home: Path, mix_ref: str, folder: Path | None, others: Sequence[str], dtype: torch.dtype
) -> dict[str, Any]:
    """Return the models by name. A stock model with an unsupported implementation fails when it is called."""
    from transformers import AutoModelForCausalLM

    registry = open_registry(home)
    _, manifest = find_mix(registry, mix_ref)
    models = {
        "dense seed": open_dense(
            registry, manifest.seed, manifest.seed.ffn, manifest.seed.trunk, dtype=dtype
        ),
        "mix": open_mix(registry, manifest, dtype=dtype).model,
    }
    for other in others:
        models[other] = open_mix(registry, find_mix(registry, other)[1], dtype=dtype).model
    if folder is None:
        return models
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    for name in STOCK:
        models[f"stock {name}"] = _Implementation(stock, name)
    return models


class _Implementation:
    """A stock model with one experts implementation of transformers; the weights are shared."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name

    def __call__(self, **inputs: Any) -> Any:
        if self.model.config._experts_implementation != self.name:
            self.model.set_experts_implementation(self.name)
        return self.model(**inputs)


def prefill(model: Any, ids: torch.Tensor) -> float:
    """Tokens per second of one forward pass over the whole batch."""
    started = time.perf_counter()
    model(input_ids=ids, use_cache=False)
    return ids.numel() / (time.perf_counter() - started)


def decode(model: Any, ids: torch.Tensor) -> float:
    """Tokens per second when decoding one token at a time, after a prompt that is not timed."""
    cache = model(input_ids=ids[:1, :PROMPT], use_cache=True)[CACHE]
    started = time.perf_counter()
    for token in ids[0, :DECODED]:
        cache = model(input_ids=token.view(1, 1), use_cache=True, **{CACHE: cache})[CACHE]
    return DECODED / (time.perf_counter() - started)


def race(
    models: dict[str, Any], measure: Callable[[Any, torch.Tensor], float], ids: torch.Tensor, rounds: int
) -> dict[str, Any]:
    """Time every model in turn, `rounds` times after one warm-up round. A model that cannot run is dropped."""
    speeds: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    for name, model in models.items():
        try:
            measure(model, ids)
            speeds[name] = []
        except (RuntimeError, ValueError, NotImplementedError) as error:
            failed[name] = str(error)[:200]
    for _ in range(rounds):
        for name in speeds:
            speeds[name].append(measure(models[name], ids))
    ratios = {
        name: [mix / other for mix, other in zip(speeds["mix"], values, strict=True)]
        for name, values in speeds.items()
    }
    return {
        "tokens_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "mix_over": {
            name: [statistics.median(r), min(r), max(r)] for name, r in ratios.items() if name != "mix"
        },
        "failed": failed,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("mix")
    parser.add_argument("export", type=Path, nargs="?")
    parser.add_argument("--against", nargs="*", default=[], metavar="MIX", help="other mixes of the registry")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--paths", nargs="+", default=["prefill", "decode"], choices=["prefill", "decode"])
    options = parser.parse_args()
    results: dict[str, Any] = {"batch": options.batch, "length": options.length, "load": [load_average()]}
    for dtype in options.dtypes:
        models = contenders(options.home, options.mix, options.export, options.against, getattr(torch, dtype))
        vocabulary = models["mix"].config.text_config.vocab_size
        shape = (options.batch, options.length)
        ids = torch.randint(3, vocabulary, shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            results[dtype] = {}
            if options.export is not None:
                stock, mix = (
                    models[name](input_ids=ids[:1, :64]).logits.argmax(-1)
                    for name in (f"stock {STOCK[0]}", "mix")
                )
                results[dtype]["same_greedy_tokens"] = (stock == mix).float().mean().item()
            for path in options.paths:
                note(f"{dtype} {path}")
                measure = {"prefill": prefill, "decode": decode}[path]
                racing = {n: m for n, m in models.items() if path == "decode" or not n.endswith(GATHERS)}
                results[dtype][path] = race(racing, measure, ids, options.rounds)
                note(json.dumps(results))  # keeps the figures of an interrupted run
    results["load"].append(load_average())
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
