"""Train the experts of the lab on a real seed: python -m bench.real_experts MODEL CORPORA [--home HOME].

MODEL is SmolLM2-135M's folder. CORPORA contains one folder per domain with train.jsonl and test.jsonl. Every domain
of DOMAINS gets one expert of each kind, named DOMAIN-KIND:

    light     all parameters, at a low learning rate: a careful fine-tune
    far       all parameters, at five times that rate
    lora      low-rank adapters on every projection
    anchored  the FFNs only; the trunk equals the seed's

Experts are trained one after another: first all light experts, then all far ones, and so on. Each is published when
it is finished. Published experts are skipped, so an interrupted run resumes.

Documents are split once into three parts. `test` is the registry's held-out text (one document in twenty), used for
scores only. `choice` (another one in twenty) serves to choose between settings. Neither is trained on. `train` and
`choice` reach the registry as the sample of a domain; the registry separates them by the same rule.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.build_experts import embed_once
from composer.experts.lora import contribute_adapter
from composer.experts.train import train_expert
from composer.mix.lock import lock_seed
from composer.mix.opening import open_dense, open_tokenizer
from composer.progress import measuring
from composer.training.data import mixed_rows
from composer.training.trainer import Schedule, fit
from registry.catalog import queries
from registry.domains.documents import HELD_OUT_ONE_IN, is_held_out
from registry.domains.reading import read_documents
from registry.errors import NotFoundError
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute

HOME = Path("~/.cache/nexusmix-bench/real").expanduser()
SEED, GENERAL = "smollm2", "admin"
DOMAINS = ("german", "sql", "python", "math")
MODEL_LICENSE, DATA_LICENSE = "Apache-2.0", "CC-BY-SA-4.0"  # the corpora are never shared
TOKENS, BATCH_TOKENS, SEQUENCE_LENGTH = 12_288, 256, 256  # with so few tokens, many small steps gain more
PARTS = ("train", "choice", "test")


@dataclass(frozen=True)
class Kind:
    """Training settings of one kind of expert."""

    learning_rate: float
    freeze_trunk: bool = False
    rank: int | None = None


KINDS = {
    "light": Kind(1e-4),
    "far": Kind(5e-4),
    "lora": Kind(1e-3, rank=16),
    "anchored": Kind(2e-4, freeze_trunk=True),
}


def part_of(text: str) -> str:
    """Return the part of a document; it depends on the text alone."""
    if is_held_out(text):
        return "test"
    rank = int(hashlib.sha256(text.encode()).hexdigest(), 16)
    return "choice" if rank % HELD_OUT_ONE_IN == 1 else "train"


def parted(home: Path, domain: str) -> dict[str, Path]:
    """Return the file of each part of a domain."""
    return {part: home / "parts" / domain / f"{part}.jsonl" for part in PARTS}


def part_corpora(corpora: Path, home: Path, domains: Iterable[str]) -> None:
    """Write the missing parts of every domain. Raises NotFoundError."""
    for domain in domains:
        files = parted(home, domain)
        if all(file.exists() for file in files.values()):
            continue
        texts: dict[str, list[str]] = {part: [] for part in PARTS}
        for text in dict.fromkeys(read_documents([corpora / domain])):
            texts[part_of(text)].append(text)
        for part, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts[part])
            file.write_text("".join(lines), encoding="utf-8")


def texts_of(home: Path, domain: str, part: str) -> list[str]:
    """Return the documents of a part."""
    return list(read_documents([parted(home, domain)[part]]))


def publish_seed(registry: Registry, model: Path) -> None:
    """Publish the seed with a sample of general text, unless it is already published."""
    try:
        queries.get_seed(registry, SEED)
    except NotFoundError:
        general = parted(registry.home, GENERAL)
        data = [general["train"], general["test"]]
        add_seed(registry, SEED, model, license=MODEL_LICENSE, data=data)


def build(registry: Registry, kind: str, domain: str, tokens: int) -> dict[str, Any] | None:
    """Train and publish one expert. Returns None if it is already published."""
    name = f"{domain}-{kind}"
    try:
        queries.get_expert(registry, name)
    except NotFoundError:
        pass
    else:
        return None
    settings = KINDS[kind]
    files = parted(registry.home, domain)
    folder = registry.home / "experts" / name
    started, cpu = time.monotonic(), time.process_time()
    losses: list[float] = []
    with measuring(lambda what, step, value: losses.append(value) if what == "loss" else None):
        if not folder.exists():
            if settings.rank is not None:
                train_adapter(registry, files["train"], folder, settings, tokens)
            else:
                train_expert(
                    registry,
                    SEED,
                    [files["train"]],
                    folder,
                    tokens=tokens,
                    freeze_trunk=settings.freeze_trunk,
                    learning_rate=settings.learning_rate,
                    sequence_length=SEQUENCE_LENGTH,
                    batch_tokens=BATCH_TOKENS,
                )
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu
    publish = contribute if settings.rank is None else contribute_adapter
    publish(
        registry,
        name,
        folder,
        seed=SEED,
        license=DATA_LICENSE,
        data=[files["train"], files["choice"]],
        held_out=[files["test"]],
        provenance={"tokens": tokens, "learning_rate": settings.learning_rate, "kind": kind},
    )
    shutil.rmtree(folder)
    return {
        "expert": name,
        "tokens": tokens,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "losses": losses,
    }


def train_adapter(registry: Registry, data: Path, out: Path, kind: Kind, tokens: int) -> None:
    """Train a LoRA adapter on every projection of the seed with PEFT and write its folder."""
    from peft import LoraConfig, get_peft_model

    assert kind.rank is not None
    seed = lock_seed(queries.get_seed(registry, SEED))
    rows = mixed_rows(
        open_tokenizer(registry.blobs, seed.files),
        {"domain": list(read_documents([data]))},
        {"domain": 1.0},
        tokens=tokens,
        length=SEQUENCE_LENGTH,
        random_seed=0,
    )
    torch.manual_seed(0)  # for the initial lora_A
    config = LoraConfig(r=kind.rank, lora_alpha=2 * kind.rank, target_modules="all-linear")
    adapted = get_peft_model(open_dense(registry, seed, seed.ffn, seed.trunk, dtype=torch.float32), config)
    trained = [p for name, p in adapted.named_parameters() if "lora_" in name]
    schedule = Schedule(kind.learning_rate, BATCH_TOKENS // SEQUENCE_LENGTH, 0)
    work = out.with_name(f".{out.name}.training")
    fit(adapted.get_base_model(), rows, trained, schedule, work, stage=f"training {out.name}")
    partial = out.with_name(f".{out.name}.part")
    adapted.save_pretrained(partial, save_embedding_layers=False)
    partial.rename(out)
    shutil.rmtree(work)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="training tokens per expert")
    parser.add_argument("--domains", nargs="+", default=DOMAINS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=tuple(KINDS))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    part_corpora(given.corpora, given.home, [*given.domains, GENERAL])
    registry = open_registry(given.home)
    embed_once(registry)
    publish_seed(registry, given.model)
    for kind in given.kinds:
        for domain in given.domains:
            built = build(registry, kind, domain, given.tokens)
            if built is not None:
                print(json.dumps(built), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
