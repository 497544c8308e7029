"""Run the whole method with SmolLM2-135M as the seed: python -m bench.smollm2 MODEL HOME CORPORA OUT [--tokens N].

MODEL is the seed's folder, CORPORA a folder of domains (german, sql, python). The steps:

1. Train anchored experts.
2. Compose german and sql with a warm start and without a gradient step.
3. Export this mix as Qwen2-MoE and compare the logits.
4. Extend it by python without a gradient step.
5. Train the paper's baseline (linear router, additive, cold) with equal token equivalents, and extend it too.

Each step writes OUT/<step>.json. A step with an existing file is skipped, so an interrupted run resumes.
One thread trains about 100 tokens per second.

Budgets are counted in token equivalents: a trained token counts 1, a token passed forward 1/3.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from composer.composition import ComposeResult, compose
from composer.evaluation.evaluate import evaluate
from composer.experts.train import train_expert
from composer.extension import extend
from composer.formats import export
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from registry.catalog import queries
from registry.errors import NotFoundError
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute

SEED, MEMBERS, NEWCOMER = "smollm2", ("german", "sql"), "python"
MODEL_LICENSE, DATA_LICENSE = "Apache-2.0", "CC-BY-SA-4.0"  # the corpora are never shared
# At a rate of 5e-4 and 512 tokens per batch, dense merging beat the experts.
LEARNING_RATE, BATCH_TOKENS, SEQUENCE_LENGTH = 2e-4, 1024, 256
EVALUATED_BYTES = 15_000
WARM = Training(tokens=0)
PROMPT = "Die Tabelle wird mit SELECT gelesen: def read(table): return"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "home", "corpora", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--tokens", type=int, default=60_000, help="training tokens per expert")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    registry = open_registry(given.home)
    step = Steps(given.out)
    step("seed", lambda: publish_seed(registry, given.model))
    for domain in (*MEMBERS, NEWCOMER):
        step(f"expert-{domain}", lambda d=domain: branch(registry, given.corpora / d, d, given.tokens))
    mix = step("warm", lambda: composed(registry, "warm", WARM))
    budget = max(BATCH_TOKENS, round(mix["equivalents"]))
    step("export", lambda: exported(registry, mix["mix"], given.out / "qwen2_moe"))
    longer = step(
        "warm-extended",
        lambda: measured(registry, extend(registry, mix["mix"], NEWCOMER, training=WARM)),
    )
    cold = Training(
        warm_start=False,
        tokens=budget,
        learning_rate=LEARNING_RATE,
        batch_tokens=BATCH_TOKENS,
        sequence_length=SEQUENCE_LENGTH,
    )
    linear = step("linear", lambda: composed(registry, "linear", cold, router="linear", combine="additive"))
    again = cold.model_copy(update={"tokens": round(longer["equivalents"])})
    step(
        "linear-extended",
        lambda: measured(registry, extend(registry, linear["mix"], NEWCOMER, training=again)),
    )


class Steps:
    """Runner of steps: skips a step with an existing file, and records the time of the others."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __call__(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.out / f"{name}.json"
        if not path.exists():
            started, cpu = time.monotonic(), time.process_time()
            result = work()
            took = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
            path.write_text(json.dumps(result | took, indent=1))
            print(f"{name}: {json.dumps(result)} {took}", file=sys.stderr, flush=True)
        return dict(json.loads(path.read_text()))


def publish_seed(registry: Registry, model: Path) -> dict[str, Any]:
    """Publish the seed, unless it is already published."""
    try:
        record = queries.get_seed(registry, SEED)
    except NotFoundError:
        record = add_seed(registry, SEED, model, license=MODEL_LICENSE)
    return {"seed": record.name}


def branch(registry: Registry, data: Path, name: str, tokens: int) -> dict[str, Any]:
    """Train and contribute an anchored expert.

    Training the trunk would take a fifth of the time, and composing anchored experts loses nothing.
    """
    folder = registry.home / "experts" / name
    losses: dict[str, Any] = {}
    if not folder.exists():
        result = train_expert(
            registry,
            SEED,
            [data],
            folder,
            tokens=tokens,
            freeze_trunk=True,
            learning_rate=LEARNING_RATE,
            sequence_length=SEQUENCE_LENGTH,
            batch_tokens=BATCH_TOKENS,
        )
        losses = {"tokens": result.tokens, "first_loss": result.first_loss, "last_loss": result.last_loss}
    record = contribute(registry, name, folder, seed=SEED, license=DATA_LICENSE, data=[data])
    return {"expert": record.ref, **losses}


def composed(registry: Registry, name: str, training: Training, **settings: Any) -> dict[str, Any]:
    """Compose a mix of the members and measure it."""
    recipe = Recipe(
        name=name,
        seed=SEED,
        experts=list(MEMBERS),
        training=training,
        **{"trunk_merge": "regmean", **settings},
    )
    return measured(registry, compose(registry, recipe))


def measured(registry: Registry, result: ComposeResult) -> dict[str, Any]:
    """Return the scores of a mix and the token equivalents of its last step."""
    report = result.manifest.training
    spent = report.get("tokens", 0) + report.get("warm_start", {}).get("tokens", 0) / 3
    scores = evaluate(registry, result.mix.ref, max_bytes=EVALUATED_BYTES)
    return scores | {"equivalents": spent, "training": report, "compose_seconds": result.seconds}


@torch.inference_mode()
def exported(registry: Registry, mix_ref: str, folder: Path) -> dict[str, Any]:
    """Export the mix and compare the stock model's logits with the mix's."""
    from transformers import AutoModelForCausalLM

    if not folder.exists():
        export(registry, mix_ref, folder, format="qwen2_moe", dtype="float32")
    mix = open_mix(registry, find_mix(registry, mix_ref)[1], dtype=torch.float32)
    ids = mix.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    ours = mix.model(ids).logits
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = stock(ids).logits
    return {
        "class": type(stock).__name__,
        "largest_difference": (ours - theirs).abs().max().item(),
        "largest_logit": ours.abs().max().item(),
        "same_argmax": (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item(),
    }


if __name__ == "__main__":
    main()
