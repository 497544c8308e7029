"""Check and time a GPU against the CPU: python -m bench.gpu [FOLDER] [--shapes pico smollm2] [--rounds 3].

One command for whoever has a GPU. It makes random models on the spot, a pico one and one of SmolLM2-135M's shape, and
prints two Markdown tables for bench/RESULTS.md: agreement with the CPU, and speed. It exits with 1 if a check fails.

Checks are in float32. They compare what is composed, evaluated, generated with a cache and lost in a fine-tune. Each
tolerance is for the rounding of sums in another order. Without a GPU the CPU is compared with itself, and a line says
that no GPU was found. FOLDER keeps the models (1.1 GB for smollm2); by default they are deleted at the end.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.processes import load_average, note
from bench.random_llamas import Shape, write_llama
from composer import resources
from composer.composition import compose
from composer.evaluation.evaluate import evaluate
from composer.generation import CACHE
from composer.mix.opening import open_mix
from composer.mix.recipe import Recipe
from composer.progress import measuring
from composer.tensors.torch_blobs import map_tensors
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute

SHAPES: Mapping[str, Shape] = {
    "pico": Shape(layers=2, hidden=64, ffn=128, vocabulary=512, heads=4, kv_heads=2, tied=True),
    "smollm2": Shape(layers=30, hidden=576, ffn=1536, vocabulary=49_152, heads=9, kv_heads=3, tied=True),
    "60m": Shape(layers=12, hidden=576, ffn=1536, vocabulary=32_000, heads=9, kv_heads=3, tied=True),
}
EXPERTS = ("one", "two", "three")
MIXES: Mapping[str, dict[str, Any]] = {
    "whole": {"training": {"tokens": 0}},
    "merged": {"trunk_merge": "regmean", "router": "nexus", "training": {"tokens": 0}},
}
TRAINED = {"sequence_length": 128, "batch_tokens": 512}
TOLERANCES = {
    "bits per byte, all columns": 1e-3,
    "strengths": 0.02,
    "warm-started routers, relative": 1e-2,
    "fitted trunk, relative": 1e-2,
    "logits with a cache, relative": 1e-3,
    "greedy tokens that differ, share": 0.1,
    "losses of a fine-tune": 5e-3,
}
DTYPES = ("float32", "tf32", "bfloat16")
PROMPT, DECODED = 512, 16


@dataclass
class Lab:
    """A registry with models of one shape, and the amount of work."""

    folder: Path
    shape: str
    bytes: int
    tokens: int

    def fill(self) -> None:
        """Write the seed and the experts and contribute them, where missing."""
        models = self.folder / "models"
        if models.exists():
            return
        registry = open_registry(self.folder / "home")
        write_llama(models, "seed", SHAPES[self.shape])
        add_seed(registry, "seed", models / "seed", license="MIT")
        for name in EXPERTS:
            write_llama(models, name, SHAPES[self.shape], like="seed")
            data = [models / f"{name}.jsonl"]
            contribute(registry, name, models / name, seed="seed", license="MIT", data=data)
        registry.engine.dispose()

    def registry(self, name: str) -> Registry:
        """Return a copy of the registry, which shares no cached result with others."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder / "home", target, copy_function=_link)
        return open_registry(target)


def _link(source: str, target: str) -> None:
    """Copy a file, or link a blob, which never changes."""
    if "/blobs/sha256/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def composed(registry: Registry, name: str, **settings: Any) -> tuple[Any, float]:
    """Compose a mix and return its manifest and the seconds."""
    recipe = {"name": name, "seed": "seed", "experts": list(EXPERTS), **settings}
    began = time.perf_counter()
    return compose(registry, Recipe.parse(recipe)).manifest, time.perf_counter() - began


def results(lab: Lab, registry: Registry) -> dict[str, Any]:
    """Return all numbers that are compared, by the name of their tolerance."""
    found: dict[str, list[Any]] = {name: [] for name in TOLERANCES}
    for mix, settings in MIXES.items():
        manifest, _ = composed(registry, mix, **settings)
        strengths = manifest.training.get("strengths", {}).values()
        found["strengths"].append(torch.tensor(list(strengths)))
        if mix == "merged":
            found["warm-started routers, relative"] = _tensors(registry, manifest.router)
            found["fitted trunk, relative"] = _tensors(registry, manifest.trunk)
        scores = evaluate(registry, mix, max_bytes=lab.bytes, dume=mix == "merged")["bits_per_byte"]
        found["bits per byte, all columns"].append(
            torch.tensor([bits for columns in scores.values() for bits in columns.values()])
        )
        model = open_mix(registry, manifest).model
        logits, tokens = decoded(model, prompt(lab.shape)[:, :64])
        found["logits with a cache, relative"].append(logits)
        found["greedy tokens that differ, share"].append(tokens)
    for settings in (MIXES["merged"], MIXES["whole"]):
        losses: list[float] = []
        training = {**TRAINED, "tokens": lab.tokens}

        def noted(metric: str, step: int, value: float, kept: list[float] = losses) -> None:
            if metric == "loss":
                kept.append(value)

        with measuring(noted):
            composed(registry, "tuned", **{**settings, "training": training})
        found["losses of a fine-tune"].append(torch.tensor(losses))
    return found


def _tensors(registry: Registry, digest: str) -> list[torch.Tensor]:
    return [tensor.float() for _, tensor in sorted(map_tensors(registry.blobs.path(digest)).items())]


def prompt(shape: str, rows: int = 1) -> torch.Tensor:
    """Return random token ids [rows, PROMPT], the same on every device."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, 259, (rows, PROMPT), generator=generator)


@torch.inference_mode()
def decoded(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode greedily after a prompt with a cache; return the logits of all steps and the tokens, on the CPU."""
    output = model(input_ids=ids.to(model.device), use_cache=True, logits_to_keep=1)
    logits = []
    for _ in range(DECODED):
        logits.append(output.logits[0, -1].float().cpu())
        token = output.logits[:, -1:].argmax(-1)
        output = model(input_ids=token, use_cache=True, **{CACHE: output[CACHE]})
    return logits[0], torch.stack(logits).argmax(-1)


def difference(check: str, one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Return the largest difference of two lists of tensors, as the name of the check says."""
    found = []
    for a, b in zip(one, other, strict=True):
        if not a.numel():
            continue
        if check.endswith("share"):
            found.append((a != b).float().mean())
        elif check.endswith("relative"):
            found.append((a - b).norm() / a.norm().clamp(min=1e-9))
        else:
            found.append((a - b).abs().max())
    return torch.stack(found).max().item()  # fails if nothing was compared


def checked(lab: Lab, device: str) -> bool:
    """Print a row for each check of one shape; return whether all passed."""
    found = []
    for side, where in (("cpu", "cpu"), ("other", device)):
        note(f"{lab.shape}: checks on {where}")
        with resources.computing(where, "float32"):
            found.append(results(lab, lab.registry(side)))
    passed = True
    for check, tolerance in TOLERANCES.items():
        worst = difference(check, found[0][check], found[1][check])
        good = worst <= tolerance
        passed &= good
        print(f"| {lab.shape} | {check} | {worst:.1e} | {tolerance:g} | {'ok' if good else '**failed**'} |")
    sys.stdout.flush()
    return passed


def timed(lab: Lab, device: str, rounds: int) -> Iterator[str]:
    """Yield a row of speeds for each device and dtype. A dtype that the device lacks is skipped."""
    sides = [("cpu", "float32"), *((device, dtype) for dtype in (DTYPES if device != "cpu" else ()))]
    for where, dtype in sides:
        note(f"{lab.shape}: times on {where} in {dtype}")
        if dtype == "tf32" and where != "cuda":
            continue
        with resources.computing(where, dtype):
            registry = lab.registry("timed")
            manifest, seconds = composed(registry, "merged", **MIXES["merged"])
            whole, _ = composed(registry, "whole", **MIXES["whole"])
            cells = [f"{seconds:.1f}"]
            for each in (whole, manifest):
                model = open_mix(registry, each).model
                ids = prompt(lab.shape, rows=8).to(model.device)
                cells.append(_speed(lambda m=model, x=ids: _prefill(m, x), ids.numel(), rounds))
                cells.append(_speed(lambda m=model, x=ids: decoded(m, x[:1, :8]), DECODED, rounds))
                del model
            training = {**TRAINED, "tokens": lab.tokens}
            _, tuned = composed(registry, "tuned", **{**MIXES["whole"], "training": training})
            cells.append(f"{lab.tokens / tuned:,.0f}")
        yield f"| {lab.shape} | {where} | {dtype} | {' | '.join(cells)} |"


@torch.inference_mode()
def _prefill(model: Any, ids: torch.Tensor) -> None:
    model(input_ids=ids, use_cache=False, logits_to_keep=1).logits.cpu()  # waits for the device


def _speed(run: Callable[[], Any], tokens: int, rounds: int) -> str:
    """Return the median tokens per second after one warm-up round."""
    run()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return f"{tokens / statistics.median(seconds):,.0f}"


def card(device: str) -> str:
    """Return the name of the GPU, or that there is none."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return (
        f"{platform.machine()}, MPS"
        if device == "mps"
        else "no GPU was found: the CPU is compared with itself"
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--shapes", nargs="+", default=["pico", "smollm2"], choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=4000, help="held-out text per domain that is evaluated")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a fine-tune")
    given = parser.parse_args()
    os.environ.setdefault("NEXUSMIX_EMBEDDER", "hashing:64")
    device = resources.device().type
    print(f"{card(device)}; torch {torch.__version__}, {platform.platform()}, load {load_average():.1f}\n")
    with tempfile.TemporaryDirectory() as temporary:
        labs = [
            Lab((given.folder or Path(temporary)) / s, s, given.bytes, given.tokens) for s in given.shapes
        ]
        print(
            "| shape | check, float32 | largest difference | tolerance | |\n| --- | --- | --- | --- | --- |"
        )
        passed = True
        for lab in labs:
            lab.fill()
            passed &= checked(lab, device)
        print(
            "\n| shape | device | dtype | merged warm start, s | whole: prefill, tokens/s | decode | merged: prefill ",
            end="",
        )
        print("| decode | LoRA fine-tune, tokens/s |\n" + "| --- " * 9 + "|")
        for lab in labs:
            for row in timed(lab, device, given.rounds):
                print(row, flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
