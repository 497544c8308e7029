"""Two chat LoRA experts from rows of messages, composed and chatting: python -m bench.chat_experts MODEL CORPORA OUT.

MODEL is the folder of SmolLM2-135M-Instruct, CORPORA a folder of domains (`DOMAIN/train.jsonl`). The steps:

1. Write rows of messages: the beginning of a passage is the question, its continuation the answer.
2. Publish the model as a seed; train one LoRA adapter per domain on the answers alone; contribute both.
3. Compose them without a gradient step.
4. Measure the loss on the answers of held-out conversations: of the seed, each expert and the mix.
5. Chat: print the reply of the mix to one held-out question per domain.

Each step is skipped if its file in OUT exists, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from bench.smollm2 import Steps, publish_seed
from composer.chat.conversation import Chat
from composer.chat.format import chat_format
from composer.chat.renderer import Renderer
from composer.chat.templates import template_of
from composer.composition import compose
from composer.experts.contribution import contribute
from composer.generation.sampling import Sampling
from composer.mix.lock import lock_expert, lock_seed
from composer.mix.opening import find_mix, open_dense, open_expert, open_mix, open_seed, open_tokenizer
from composer.mix.recipe import Recipe, Training
from composer.training.data import IGNORED, mixed_rows, packed
from composer.training.trainer import Schedule, fit
from registry.catalog import queries
from registry.domains.documents import is_held_out
from registry.domains.reading import read_documents, read_marked
from registry.home import Registry, open_registry

SEED = "smollm2"  # the name that bench.smollm2 gives it
DOMAINS = ("german", "sql")
ASKED = "Continue this text.\n\n"
QUESTION_CHARS, ANSWER_CHARS = 240, 700
RANK, LEARNING_RATE, LENGTH, BATCH_TOKENS = 8, 1e-3, 256, 1024
TESTED = 6  # held-out conversations per domain


def write_rows(corpus: Path, out: Path, most: int = 1500) -> dict[str, Any]:
    """Write rows of messages from the passages of a corpus."""
    count = 0
    with out.open("w") as file:
        for text in read_documents(corpus):
            passage = text.strip()[: QUESTION_CHARS + ANSWER_CHARS]
            cut = passage.rfind(" ", 0, QUESTION_CHARS)
            if len(passage) < QUESTION_CHARS + ANSWER_CHARS or cut < 0:
                continue
            turns = [(ASKED + passage[:cut]).strip(), passage[cut:].strip()]
            messages = [
                {"role": role, "content": content}
                for role, content in zip(("user", "assistant"), turns, strict=True)
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            count += 1
            if count == most:
                break
    return {"rows": count}


def train_adapter(registry: Registry, data: Path, out: Path, tokens: int) -> dict[str, Any]:
    """Train a LoRA adapter with PEFT on the answers of rows of messages, and write its folder."""
    from peft import LoraConfig, get_peft_model

    seed = lock_seed(queries.get_seed(registry, SEED))
    with chat_format(registry.blobs, seed.files) as chat:
        found = [each for each in read_marked(data, chat=chat) if not is_held_out(each.text)]
    tokenizer = open_tokenizer(registry.blobs, seed.files)
    rows = mixed_rows(
        tokenizer, {"domain": found}, {"domain": 1.0}, tokens=tokens, length=LENGTH, random_seed=0
    )
    counted = sum((row["labels"] != IGNORED).sum().item() for row in rows) / (len(rows) * LENGTH)
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    adapted = get_peft_model(open_dense(registry, seed, seed.ffn, seed.trunk, dtype=torch.float32), config)
    trained = [p for name, p in adapted.named_parameters() if "lora_" in name]
    schedule = Schedule(LEARNING_RATE, BATCH_TOKENS // LENGTH, 0)
    losses = fit(
        adapted.get_base_model(), rows, trained, schedule, out.with_name(f".{out.name}"), stage=out.name
    )
    adapted.save_pretrained(out, save_embedding_layers=False)
    return {
        "tokens": len(rows) * LENGTH,
        "counted": counted,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def published(registry: Registry, name: str, folder: Path, data: Path) -> dict[str, Any]:
    """Contribute an adapter with its rows of messages."""
    record = contribute(registry, name, folder, seed=SEED, license="CC-BY-SA-4.0", data=[data])
    return {"expert": record.ref, "skipped": record.provenance.get("skipped", {})}


def composed(registry: Registry) -> dict[str, Any]:
    """Compose both experts without a gradient step."""
    recipe = Recipe(name="chat", seed=SEED, experts=list(DOMAINS), training=Training(tokens=0))
    result = compose(registry, recipe)
    return {"mix": result.mix.ref, "routing": result.manifest.routing_label}


@torch.inference_mode()
def measured(registry: Registry, mix_ref: str, rows: dict[str, Path]) -> dict[str, Any]:
    """Return the loss in nats per token of the answers, by domain and model."""
    seed = lock_seed(queries.get_seed(registry, SEED))
    tokenizer = open_tokenizer(registry.blobs, seed.files)
    found: dict[str, Any] = {domain: {} for domain in rows}
    with chat_format(registry.blobs, seed.files) as chat:
        tests = {
            domain: [d for d in read_marked(path, chat=chat) if is_held_out(d.text)][:TESTED]
            for domain, path in rows.items()
        }
    models = {"seed": lambda: open_dense(registry, seed, seed.ffn, seed.trunk, dtype=torch.float32)}
    for name in DOMAINS:
        expert = lock_expert(queries.get_expert(registry, name))
        models[name] = lambda expert=expert: open_expert(registry, seed, expert, dtype=torch.float32)
    models["mix"] = lambda: open_mix(registry, find_mix(registry, mix_ref)[1], dtype=torch.float32).model
    for name, make in models.items():
        model = make()
        for domain, conversations in tests.items():
            total = count = 0.0
            for conversation in conversations:
                length = len(tokenizer(conversation.text, add_special_tokens=False)["input_ids"]) + 1
                row = packed(tokenizer, [conversation], length)
                logits = model(input_ids=row["input_ids"][:, :-1], use_cache=False).logits.float()
                labels = row["labels"][:, 1:].flatten()
                total += F.cross_entropy(logits.flatten(0, 1), labels, reduction="sum").item()
                count += (labels != IGNORED).sum().item()
            found[domain][name] = round(total / count, 4)
    return {"loss": found, "conversations": {domain: len(each) for domain, each in tests.items()}}


def chatted(registry: Registry, mix_ref: str, rows: dict[str, Path]) -> dict[str, Any]:
    """Return the replies of the seed and of the mix to a held-out question per domain, greedily."""
    replies: dict[str, Any] = {}
    manifest = find_mix(registry, mix_ref)[1]
    seed = lock_seed(queries.get_seed(registry, SEED))
    opened = {"seed": open_seed(registry, seed), "mix": open_mix(registry, manifest)}
    with Renderer() as renderer, chat_format(registry.blobs, seed.files) as chat:
        template = template_of(registry.blobs, manifest)
        for domain, path in rows.items():
            messages = (json.loads(line)["messages"] for line in path.read_text().splitlines())
            question = next(turns[:1] for turns in messages if is_held_out(chat.render(turns).text))  # type: ignore[union-attr]
            for name, model in opened.items():
                reply = Chat(model, template, renderer).reply(question, Sampling(40, temperature=0))
                replies.setdefault(domain, {"question": question[0]["content"]})[name] = reply.text
    return replies


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "corpora", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--tokens", type=int, default=4096, help="training tokens per expert")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    registry = open_registry(given.out / "home")
    step = Steps(given.out)
    rows = {domain: given.out / f"{domain}.jsonl" for domain in DOMAINS}
    step("seed", lambda: publish_seed(registry, given.model))
    for domain, path in rows.items():
        folder = given.out / f"{domain}-lora"
        step(f"rows-{domain}", lambda: write_rows(given.corpora / domain / "train.jsonl", path))  # noqa: B023
        step(f"train-{domain}", lambda: train_adapter(registry, path, folder, given.tokens))  # noqa: B023
        step(f"expert-{domain}", lambda: published(registry, domain, folder, path))  # noqa: B023
    mix = step("mix", lambda: composed(registry))["mix"]
    step("losses", lambda: measured(registry, mix, rows))
    step("replies", lambda: chatted(registry, mix, rows))
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
