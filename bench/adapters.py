"""Compose many adapters on one seed, as whole processes: python -m bench.adapters FOLDER MODEL TEXT [--rank 16].

MODEL is a Llama's folder and TEXT a folder of text files; adapter i gets the i-th piece of 20 kB of them. FOLDER gets
a registry with the seed and adapters on every projection, with random weights. The output is one Markdown
row per command: wall time, CPU time, and the peaks of anonymous and total memory, with the seed alone for comparison.
No strength is measured: their cost is a few forward passes per adapter, once, as for any expert.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import Usage, folder_bytes, load_average, run

NEXUSMIX = Path(sys.executable).with_name("nexusmix")
PIECE = 20_000  # bytes of text per adapter
# Runs in one process, because a process per adapter would start torch fifty times.
CONTRIBUTE = """
import sys
from pathlib import Path
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from composer.experts.lora import contribute_adapter
from registry.catalog import queries
from registry.errors import NotFoundError
from registry.home import open_registry
model, pieces, scratch = map(Path, sys.argv[1:4])
registry = open_registry()
config = LoraConfig(r=int(sys.argv[4]), lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
for place, piece in enumerate(sorted(pieces.iterdir())):
    name = piece.stem
    try:
        queries.get_expert(registry, name)
        continue
    except NotFoundError:
        pass
    torch.manual_seed(place)
    for key, parameter in adapted.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(scratch, save_embedding_layers=False)
    contribute_adapter(registry, name, scratch, seed="seed", license="MIT", data=[piece])
"""
# The seed alone: what the same command costs without any adapter.
DENSE = """
import sys, torch
from composer.mix.lock import lock_seed
from composer.mix.opening import open_seed
from registry.catalog import queries
from registry.home import open_registry
registry = open_registry()
model = open_seed(registry, lock_seed(queries.get_seed(registry, "seed")))
ids = torch.tensor([model.tokenizer(sys.argv[1])["input_ids"]])
with torch.inference_mode():
    model.model.generate(ids, max_new_tokens=16, do_sample=False)
"""


def cut(text: Path, folder: Path, count: int) -> list[str]:
    """Write the first `count` pieces of all files below `text`, one JSON Lines document each; return their names.

    Raises ValueError if there is too little text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = b"\n".join(path.read_bytes() for path in sorted(text.rglob("*")) if path.is_file())
    if len(whole) < count * PIECE:
        raise ValueError(f"{text} has {len(whole):,} bytes of text; {count} adapters need {count * PIECE:,}")
    step = len(whole) // count
    names = [f"adapter-{place:03}" for place in range(count)]
    for place, name in enumerate(names):
        piece = whole[place * step : place * step + PIECE].decode(errors="ignore")
        (folder / f"{name}.txt").write_text(piece)
    return names


def row(name: str, usage: Usage) -> str:
    """One Markdown row."""
    memory = (f"{megabytes * 1e6 / 2**20:,.0f}" for megabytes in (usage.anonymous, usage.total))
    return f"| {name} | {usage.wall:.1f} | {usage.cpu:.1f} | {' | '.join(memory)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--adapters", type=int, default=50)
    parser.add_argument("--rank", type=int, default=16)
    given = parser.parse_args(arguments)
    home = given.folder / "home"
    environment = {"NEXUSMIX_HOME": str(home), "NEXUSMIX_EMBEDDER": "hashing:64"}
    names = cut(given.text, given.folder / "pieces", given.adapters)
    if not home.exists():
        run([NEXUSMIX, "seed", "add", "seed", given.model, "--license", "Apache-2.0"], environment)
    script = [
        sys.executable,
        "-c",
        CONTRIBUTE,
        given.model,
        given.folder / "pieces",
        given.folder / "adapter",
    ]
    run([*script, str(given.rank)], environment)
    print(
        f"{given.adapters} adapters of rank {given.rank}; {folder_bytes(home) / 1e6:,.0f} MB in the registry"
    )
    print(
        f"load {load_average():.1f}\n\n| command | s | CPU s | anonymous MiB | total MiB |\n|---|---|---|---|---|"
    )
    chosen = ["--seed", "seed", "--experts", ",".join(names)]
    before = folder_bytes(home)
    for name in ("first", "again"):
        whole = [NEXUSMIX, "compose", name, *chosen, "--no-warm-start", "--tokens", "0", "--json"]
        print(row(f"compose, {name}", run(whole, environment)), flush=True)
    generate = [NEXUSMIX, "generate", "first", "SELECT name FROM", "--max-new-tokens", "16", "--json"]
    print(row("generate 16 tokens", run(generate, environment)), flush=True)
    dense = [sys.executable, "-c", DENSE, "SELECT name FROM"]
    print(row("the same with the seed alone", run(dense, environment)), flush=True)
    print(
        f"\nwritten by both compositions: {(folder_bytes(home) - before) / 1e6:.1f} MB; load {load_average():.1f}"
    )


if __name__ == "__main__":
    main()
