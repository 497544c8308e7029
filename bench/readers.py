"""Time one mix in its readers: python -m bench.readers HOME MIX [--vllm DIR] [--message TEXT] [--rounds N].

Each round runs every reader in turn, on one thread. Rates are tokens per second of the processor's time, which other
work on the machine changes little. Prefill is the rate of reading a text of 160 tokens, up to the first new token.
Decode is the rate of the tokens after the first, written greedily after the message, in the mix's chat template if it
has one. It prints both rates, the size of each export, the largest difference of a log-probability from the mix's, and
the text of each reader. llama.cpp's text never contains the token that ends a text, so the texts can differ after it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from bench.conformance import LlamaCpp, Reader, Transformers, generated, largest_difference
from bench.elsewhere import Elsewhere
from composer.formats import export
from composer.mix.opening import OpenMix, find_mix, open_mix
from registry.home import open_registry

LICENCE = Path(__file__).parent.parent / "LICENSE"


class Itself:
    """The mix, open in this process; it needs no export."""

    def __init__(self, mix: OpenMix) -> None:
        self._model = mix.model

    @torch.inference_mode()
    def top_log_probs(self, ids: list[int], *, count: int) -> dict[int, float]:
        """The likeliest next tokens and their natural log-probabilities."""
        top = self._model(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1).topk(count)
        return dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))

    def greedy(self, ids: list[int], *, count: int) -> list[int]:
        """The next `count` tokens, each the likeliest."""
        return generated(self._model, ids, count)


def cpu_seconds(reader: Reader) -> float:
    """The processor's time that the reader's process has used so far."""
    import psutil

    used = psutil.Process(reader.pid if isinstance(reader, Elsewhere) else None).cpu_times()
    return float(used.user + used.system)


def size(folder: Path) -> float:
    """Size of a folder's weights in MB."""
    return sum(p.stat().st_size for p in folder.iterdir() if p.suffix in (".safetensors", ".gguf")) / 1e6


def prompt_of(tokenizer: Any, message: str) -> list[int]:
    """Token ids of a message in the chat template, or of the plain text without a template."""
    text = message
    if tokenizer.chat_template:
        asked = [{"role": "user", "content": message}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def write(tokenizer: Any, reader: Reader, ids: list[int], count: int) -> tuple[str, float]:
    """The text of `count` greedy tokens, and the processor's time it took in seconds."""
    start = cpu_seconds(reader)
    # llama.cpp's server returns the text of one request, the others their tokens.
    if isinstance(reader, LlamaCpp):
        text = reader.write(ids, count)
    else:
        text = tokenizer.decode(reader.greedy(ids, count=count))
    return text, cpu_seconds(reader) - start


def measured(tokenizer: Any, reader: Reader, ids: list[int], count: int) -> tuple[str, float, float]:
    """The text of `count` greedy tokens, and tokens per CPU second of prefill and of decode."""
    long = tokenizer(LICENCE.read_text(encoding="utf-8"))["input_ids"][:160]
    prefill = len(long) / write(tokenizer, reader, long, 1)[1]
    first = write(tokenizer, reader, ids, 1)[1]
    text, whole = write(tokenizer, reader, ids, count)
    return text, prefill, (count - 1) / (whole - first)


def spread(rates: list[float]) -> str:
    """The median of rates, with the lowest and the highest."""
    return f"{statistics.median(rates):.1f} ({min(rates):.1f}–{max(rates):.1f})"


def main() -> None:
    """Print a Markdown table with one row per reader, and the texts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("mix")
    parser.add_argument("--vllm", type=Path, metavar="DIR", help="an environment with vLLM")
    parser.add_argument("--format", default="qwen2_moe", help="the stock format of the mix")
    parser.add_argument("--message", default="What is a matrix?")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    registry = open_registry(arguments.home)
    mix = open_mix(registry, find_mix(registry, arguments.mix)[1], dtype=torch.float32)
    ids, count = prompt_of(mix.tokenizer, arguments.message), arguments.tokens
    texts: dict[str, str] = {}
    rows: list[tuple[str, Reader, Path | None]] = [("the mix itself", Itself(mix), None)]
    with tempfile.TemporaryDirectory(prefix="nexusmix-") as temporary, ExitStack() as stack:
        root, stock = Path(temporary), arguments.format
        for format, dtype in ((stock, "float32"), ("gguf", "float32"), ("gguf", "q8_0")):
            export(registry, arguments.mix, root / f"{format}-{dtype}", format=format, dtype=dtype)
        folder = root / f"{stock}-float32"
        rows.append((f"transformers, {stock}", Transformers(folder), folder))
        for dtype in ("float32", "q8_0"):
            folder = root / f"gguf-{dtype}"
            rows.append((f"llama.cpp, {dtype}", LlamaCpp(folder / "model.gguf"), folder))
        if arguments.vllm:
            folder = root / f"{stock}-float32"
            try:
                reader = stack.enter_context(Elsewhere(arguments.vllm, "vllm", folder))
                rows.append((f"{reader.version}, {stock}", reader, folder))
            except RuntimeError as error:
                print(f"vllm cannot open the export: {error}", file=sys.stderr)
        differences = {name: largest_difference(mix, reader) for name, reader, _ in rows}
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in rows}
        for _ in range(arguments.rounds):
            for name, reader, _folder in rows:
                texts[name], *found = measured(mix.tokenizer, reader, ids, count)
                rates[name].append((found[0], found[1]))
                print(
                    f"{name}: {found} tokens per CPU second", differences[name], file=sys.stderr, flush=True
                )
        print("| reader | prefill, tokens/CPU s | decode, tokens/CPU s | largest difference | weights, MB |")
        print("|---|---|---|---|---|")
        for name, _reader, folder in rows:
            prefill, decode = (spread(list(each)) for each in zip(*rates[name], strict=True))
            weights = f"{size(folder):.1f}" if folder else ""
            print(f"| {name} | {prefill} | {decode} | {differences[name]:.1e} | {weights} |")
    for name, text in texts.items():
        print(f"\n{name}: {text!r}")
    registry.engine.dispose()


if __name__ == "__main__":
    main()
