"""Training of the demo's seed, the small Llama in ui/demo/seed: python -m ui.demo.train_seed OUT --start SEED.

It goes on from an earlier seed's weights and tokenizer, in the background, for as long as you like. OUT/state.pt is
the checkpoint from which the same command resumes, and OUT/training.jsonl the log. The learning rate warms up, is
constant, and falls to zero over the last DECAY_SHARE of --tokens. So training can be ended at any time: interrupt
it, and resume with a smaller number. The text comes from general.py. The demo does not train but uses the result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.domains.documents import Sample
from ui.demo.general import general_documents

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

TOKENS = 30_000_000
ROW = 512
BATCH_ROWS = 4
SHORT = 256  # length of a sequence until the decay, which has whole rows: short sequences are faster
LEARNING_RATE = 1.5e-3
WARM_UP_STEPS = 50
DECAY_SHARE = 0.3
SAVE_STEPS = 50
HELD_OUT_ROWS = 8  # of each type of text
RANDOM_SEED = 0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--start", type=Path, required=True, help="folder of the weights and tokenizer to go on from"
    )
    parser.add_argument(
        "--debian", type=Path, default=Path("/"), help="folder with the files of the Debian packages"
    )
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of this run, from its first start")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments.out, arguments.start, arguments.debian, arguments.tokens)


def train(out: Path, start: Path, debian: Path, tokens: int) -> None:
    """Train until `tokens`, and write the model in float16 with its tokenizer to `out` as a Hugging Face folder."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    torch.set_flush_denormal(True)
    tokenizer = AutoTokenizer.from_pretrained(start)
    rows, held_out = _token_rows(out, tokenizer, debian)
    model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    run_steps(model, rows, held_out, tokens // (BATCH_ROWS * ROW), out)
    tokenizer.save_pretrained(out)
    model.to(torch.float16).save_pretrained(out)  # type: ignore[arg-type]


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step in [0, steps): warm-up, constant, linear decay to zero."""
    return LEARNING_RATE * min(1, (step + 1) / WARM_UP_STEPS, (steps - step) / max(1, DECAY_SHARE * steps))


def run_steps(
    model: LlamaForCausalLM, rows: torch.Tensor, held_out: Mapping[str, torch.Tensor], steps: int, out: Path
) -> None:
    """Train on rows of tokens [n, ROW] up to `steps`, from the checkpoint in `out` if there is one.

    The log has the mean loss of each SAVE_STEPS steps and at the end that of each type of held-out text, in nats.
    """
    import torch

    decayed, plain = (
        [p for p in model.parameters() if p.ndim > 1],
        [p for p in model.parameters() if p.ndim < 2],
    )
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    half = torch.cpu._is_amx_tile_supported()  # without such units, half precision is slower
    step, state = 0, out / "state.pt"
    if state.exists():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    else:
        _log(out, {"step": 0, "held_out": held_out_loss(model, held_out)})
    losses, began = [], time.perf_counter()
    model.train()
    while step < steps:
        rate = learning_rate(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        length = SHORT if step < (1 - DECAY_SHARE) * steps else ROW
        batch = batch_of(rows, step).view(-1, length)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        step += 1
        if step % SAVE_STEPS == 0 or step == steps:
            speed = len(losses) * batch.numel() / (time.perf_counter() - began)
            entry = {
                "step": step,
                "tokens": step * batch.numel(),
                "loss": round(sum(losses) / len(losses), 4),
            }
            _log(out, {**entry, "rate": round(rate, 6), "length": length, "tokens_per_s": round(speed)})
            _save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, state)
            losses, began = [], time.perf_counter()
    _log(out, {"step": step, "held_out": held_out_loss(model, held_out)})


def batch_of(rows: torch.Tensor, step: int) -> torch.Tensor:
    """Return the rows [BATCH_ROWS, ROW] of a step. Every pass over the rows has another random order."""
    import torch

    steps = len(rows) // BATCH_ROWS
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(RANDOM_SEED + step // steps))
    first = step % steps * BATCH_ROWS
    return rows[order[first : first + BATCH_ROWS]].long()


def held_out_loss(model: LlamaForCausalLM, held_out: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Return the mean loss of a token of each type of text, in nats."""
    import torch

    model.eval()
    with torch.no_grad():
        return {
            name: round(model(input_ids=rows.long(), labels=rows.long(), use_cache=False).loss.item(), 4)
            for name, rows in held_out.items()
        }


def pack(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str]) -> torch.Tensor:
    """Return documents as rows of tokens [n, ROW], with an end-of-document token before each document."""
    import torch

    encoded = tokenizer(list(documents), add_special_tokens=False)["input_ids"] if documents else []
    stream = list(chain.from_iterable([tokenizer.eos_token_id, *tokens] for tokens in encoded))
    rows = len(stream) // ROW
    return torch.tensor(stream[: rows * ROW], dtype=torch.int16).view(rows, ROW)


def _token_rows(
    out: Path, tokenizer: PreTrainedTokenizerBase, debian: Path
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the training rows and the held-out rows by type of text, from OUT/tokens.pt if it is there."""
    import torch

    file = out / "tokens.pt"
    if not file.exists():
        samples = general_documents(debian)
        documents = [text for sample in samples.values() for text in sample.train]
        random.Random(RANDOM_SEED).shuffle(documents)
        held_out = {
            name: pack(tokenizer, sample.held_out)[:HELD_OUT_ROWS] for name, sample in samples.items()
        }
        rows = pack(tokenizer, documents)
        (out / "sources.json").write_text(json.dumps(_sources(samples, rows), indent=1) + "\n")
        _save({"rows": rows, "held_out": {name: kept for name, kept in held_out.items() if len(kept)}}, file)
    saved = torch.load(file)
    return saved["rows"], saved["held_out"]


def _sources(samples: Mapping[str, Sample], rows: torch.Tensor) -> dict[str, Any]:
    """Return what the seed is trained on: by type of text its documents, bytes and sha256, and the versions used."""
    from importlib.metadata import version

    kinds = {}
    for name, sample in samples.items():
        digest = hashlib.sha256()
        for text in sample.train:
            digest.update(hashlib.sha256(text.encode()).digest())
        size = sum(len(text.encode()) for text in sample.train)
        kinds[name] = {"documents": len(sample.train), "bytes": size, "sha256": digest.hexdigest()}
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return {"tokens": rows.numel(), "versions": versions, "kinds": kinds}


def _save(value: Any, path: Path) -> None:
    import torch

    part = path.with_suffix(".part")
    torch.save(value, part)
    part.replace(path)


def _log(out: Path, entry: Mapping[str, Any]) -> None:
    with (out / "training.jsonl").open("a") as stream:
        stream.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
