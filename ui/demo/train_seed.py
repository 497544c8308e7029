"""Training of the demo's seed, the small Llama committed in ui/demo/seed: python -m ui.demo.train_seed OUT.

It takes about 15 minutes on one core. The demo does not run it but uses the committed seed.
The text comes from general.py; the architecture and the schedule are the constants below.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ui.demo.general import general_documents

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096
END_OF_DOCUMENT = "<|end|>"
PADDING = "<|pad|>"
SEQUENCE = 512
BATCH = 8
TOKENS = 3_000_000
LEARNING_RATE = 2e-3
WARM_UP_SHARE = 0.03
RANDOM_SEED = 0
ARCHITECTURE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": SEQUENCE,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}


def main(out: Path) -> None:
    """Train the tokenizer and the model, and write both to `out` as a Hugging Face folder in float16."""
    import torch

    documents = list(chain.from_iterable(general_documents().values()))
    tokenizer = train_tokenizer(documents)
    tokenizer.save_pretrained(out)
    random.Random(RANDOM_SEED).shuffle(documents)
    stream = pack(tokenizer, documents)
    print(f"{len(documents)} documents, {len(stream)} tokens", file=sys.stderr)  # noqa: T201
    model = train_model(stream)
    model.to(torch.float16).save_pretrained(out)  # type: ignore[arg-type]


def train_tokenizer(documents: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of VOCABULARY tokens; its special tokens mark document ends and padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_DOCUMENT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_DOCUMENT,
        eos_token=END_OF_DOCUMENT,
        pad_token=PADDING,
        model_max_length=SEQUENCE,
    )


def pack(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]) -> torch.Tensor:
    """Return all documents as one sequence of tokens [s], with an end-of-document token before each document."""
    import torch

    encoded = tokenizer(list(documents), add_special_tokens=False)["input_ids"]
    ends = [[tokenizer.eos_token_id, *tokens] for tokens in encoded]
    return torch.tensor(list(chain.from_iterable(ends)), dtype=torch.long)


def train_model(stream: torch.Tensor) -> LlamaForCausalLM:
    """Train the seed from scratch on sequences of the token stream [s]. The same stream gives the same model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(RANDOM_SEED)
    model = LlamaForCausalLM(LlamaConfig(**ARCHITECTURE, architectures=["LlamaForCausalLM"]))
    steps = TOKENS // (BATCH * SEQUENCE)
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.05 + 0.475 * (1 + math.cos(math.pi * step / steps))),
    )
    began = time.perf_counter()
    for step, batch in enumerate(_batches(stream, steps), start=1):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == steps:
            speed = step * BATCH * SEQUENCE / (time.perf_counter() - began)
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {speed:.0f} tokens/s", file=sys.stderr)  # noqa: T201
    return model


def _batches(stream: torch.Tensor, steps: int) -> Iterator[torch.Tensor]:
    """Yield batches [BATCH, SEQUENCE]. Each epoch cuts the stream at a new offset and shuffles the sequences."""
    import torch

    generator = torch.Generator().manual_seed(RANDOM_SEED)
    rows: list[torch.Tensor] = []
    for _ in range(steps):
        if len(rows) < BATCH:
            offset = int(torch.randint(SEQUENCE, (), generator=generator))
            cut = stream[offset : offset + (len(stream) - offset) // SEQUENCE * SEQUENCE].view(-1, SEQUENCE)
            rows = [cut[i] for i in torch.randperm(len(cut), generator=generator)]
        yield torch.stack([rows.pop() for _ in range(BATCH)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ui.demo.train_seed OUT")
    main(Path(sys.argv[1]))
