"""Compose, evaluate and generate at real sizes, as whole processes: python -m bench.size FOLDER SHAPE [--memory 6GiB].

SHAPE is 1b (TinyLlama-1.1B) or 3b (Llama-3.2-3B). FOLDER gets a seed and three experts with random weights, in
bfloat16, and a registry with them; for 3b that takes 40 GB, so delete it afterwards. The output is one Markdown row per
command: wall time, CPU time, and the peaks of anonymous and of total memory, which includes mapped files.

Composing is compared with plain forward passes of the same tokens: dense models in float32, opened from the same blobs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.processes import Usage, load_average, note, run

NEXUSMIX = Path(sys.executable).with_name("nexusmix")
EXPERTS = ("one", "two", "three")
SHAPES: Mapping[str, str] = {
    "1b": "--layers 22 --hidden 2048 --ffn 5632 --vocabulary 32000 --heads 32 --kv-heads 4",
    "3b": "--layers 28 --hidden 3072 --ffn 8192 --vocabulary 128256 --heads 24 --kv-heads 8 --tied",
}
PLAIN_PASSES = """
import sys, time, torch
from composer.bits_per_byte import bits_per_byte, windows
from composer.mix.lock import lock_expert, lock_seed
from composer.mix.opening import open_expert, open_tokenizer
from composer.routed_trunk.strengths import MEASURED_BYTES, WINDOW, _for_choices
from registry.catalog import queries
from registry.domains.documents import load_documents
from registry.home import open_registry
registry = open_registry()
seed = lock_seed(queries.get_seed(registry, "seed"))
tokenizer = open_tokenizer(registry.blobs, seed.files)
seconds = 0.0
for name in sys.argv[1:]:
    record = queries.get_expert(registry, name)
    texts = _for_choices(load_documents(registry.blobs, record.sample))
    text = windows(tokenizer, texts, max_bytes=MEASURED_BYTES, length=WINDOW)
    model = open_expert(registry, seed, lock_expert(record), dtype=torch.float32)
    for repetition in range(3):
        started = time.process_time()
        bits_per_byte(model, text)
        seconds += time.process_time() - started
print(sum(map(len, text.windows)), seconds)
"""


class Bench:
    """The benchmark folder of one shape."""

    def __init__(self, folder: Path, shape: str, memory: str) -> None:
        self.models, self.shape = folder / "models", SHAPES[shape].split()
        self.environment = {
            "NEXUSMIX_HOME": str(folder / "home"),
            "NEXUSMIX_EMBEDDER": "hashing:64",
            "NEXUSMIX_MEMORY": memory,
        }

    def prepare(self) -> None:
        """Write the models and contribute them, where missing. A contributed model's folder is deleted."""
        if (Path(self.environment["NEXUSMIX_HOME"]) / "ready").exists():
            return
        write = [sys.executable, "-m", "bench.random_llamas", self.models]
        run([*write, "seed", *self.shape])
        self.nexusmix("seed", "add", "seed", self.models / "seed", "--license", "MIT")
        for name in EXPERTS:
            note(name)
            run([*write, name, "--like", "seed", *self.shape])
            data = self.models / f"{name}.jsonl"
            given = ["--seed", "seed", "--license", "MIT", "--data", data]
            self.nexusmix("contribute", name, self.models / name, *given)
            shutil.rmtree(self.models / name)
        shutil.rmtree(self.models)
        (Path(self.environment["NEXUSMIX_HOME"]) / "ready").touch()

    def nexusmix(self, *arguments: str | Path) -> Usage:
        """Run one command."""
        return run([NEXUSMIX, *arguments], self.environment)

    def measure(self, kind: str, max_bytes: int, *, solved: bool) -> None:
        """Print one row per command; `kind` is the preset. Not `solved`: without a warm start."""
        options = ["--preset", kind, "--tokens", "0", *([] if solved else ["--no-warm-start"])]
        experts = ["--seed", "seed", "--experts", ",".join(EXPERTS)]
        name = kind if solved else f"{kind}-at-once"
        composed = self.nexusmix("compose", name, *experts, *options, "--json")
        print(_row(f"compose {' '.join(options)}", composed), flush=True)
        if kind == "whole" and solved:
            plain = run([sys.executable, "-c", PLAIN_PASSES, *EXPERTS], self.environment)
            tokens, seconds = plain.output.split()
            print(_row(f"plain forward passes, 9 × {tokens} tokens", plain), flush=True)
            print(f"composing / plain passes, CPU: {composed.cpu / float(seconds):.2f}", flush=True)
        for command in (
            ["evaluate", name, "--max-bytes", str(max_bytes), "--json"],
            ["generate", name, "one def import", "--max-new-tokens", "8", "--json"],
        ):
            print(_row(" ".join(command[:1]), self.nexusmix(*command)), flush=True)


def _row(name: str, usage: Usage) -> str:
    memory = (f"{megabytes * 1e6 / 2**30:.2f}" for megabytes in (usage.anonymous, usage.total))
    cells = (name, f"{usage.wall:.0f}", f"{usage.cpu:.0f}", *memory)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--memory", default="6GiB")
    parser.add_argument("--presets", nargs="+", default=["whole", "merged"])
    parser.add_argument(
        "--max-bytes", type=int, default=4000, help="held-out text per domain that is evaluated"
    )
    parser.add_argument(
        "--no-warm-start", dest="solved", action="store_false", help="compose at once, to measure the rest"
    )
    given = parser.parse_args()
    bench = Bench(given.folder, given.shape, given.memory)
    bench.prepare()
    print(f"load {load_average():.1f}, memory limit {given.memory}\n")
    print("| command | s | CPU s | anonymous GiB | total GiB |\n| --- | --- | --- | --- | --- |")
    for kind in given.presets:
        bench.measure(kind, given.max_bytes, solved=given.solved)


if __name__ == "__main__":
    main()
