"""Compare exported mixes in several readers: python -m bench.conformance [--environment DIR] [--dtypes NAME …].

The seed is the demo's: 2.6 million weights in float32, with a tied or a separate output head. The two experts are
the seed plus noise. transformers (the installed one, and that of DIR if given) reads `--format qwen2_moe`, llama.cpp
reads `--format gguf`. For each reader it prints the largest difference of a log-probability from the mix's, over the
five likeliest next tokens after each prompt.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from composer.composition import compose
from composer.formats import export
from composer.mix.opening import OpenMix, find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import pico
from llama_cpp import LlamaCpp

ROOT = Path(__file__).parent.parent
TEXTS = [
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md", "composer/mix/opening.py")
]
LENGTHS = (4, 32, 200)
# Runs in any environment. argv: a folder and a file of prompts. Prints the log-probabilities after each prompt.
READ = """
import json, sys
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.inference_mode():
    rows = [model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).tolist() for ids in json.load(open(sys.argv[2]))]
print(json.dumps(rows))
"""


def make_mix(root: Path, *, tied: bool, combine: str) -> tuple[Registry, OpenMix]:
    """Compose a mix of two noisy copies of the demo's seed."""
    seed = root / "seed"
    seed.mkdir(parents=True)
    for path in (ROOT / "ui" / "demo" / "seed").glob("*.json"):
        (seed / path.name).write_bytes(path.read_bytes())
    tensors = {
        n: t.float() for n, t in load_file(ROOT / "ui" / "demo" / "seed" / "model.safetensors").items()
    }
    if not tied:
        embeddings = tensors["model.embed_tokens.weight"]
        noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(9))
        tensors["lm_head.weight"] = embeddings + 0.01 * noise
    save_file(tensors, seed / "model.safetensors", metadata={"format": "pt"})
    pico.edit_config(seed, dtype="float32", tie_word_embeddings=tied)
    registry = open_registry(root / "home", embedder="hashing:16")
    add_seed(registry, "demo", seed, license="Apache-2.0")
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number, scale=0.02)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="demo", license="MIT", data=[data])
    untrained = Training(warm_start=False, tokens=0)
    compose(
        registry,
        Recipe(
            name="mix",
            seed="demo",
            experts=["code", "math"],
            combine=combine,
            trunk_merge="regmean",
            training=untrained,
        ),
    )
    return registry, open_mix(registry, find_mix(registry, "mix")[1])


def differences(root: Path, pythons: dict[str, Path], dtypes: list[str], **variant: Any) -> dict[str, float]:
    """Return the largest difference of a log-probability per reader."""
    registry, mix = make_mix(root, **variant)
    ids = [mix.tokenizer(text)["input_ids"][:length] for text in TEXTS for length in LENGTHS]
    with torch.inference_mode():
        ours = torch.stack([mix.model(torch.tensor([row])).logits[0, -1].log_softmax(-1) for row in ids])
    tops = ours.topk(5).indices
    (root / "ids.json").write_text(json.dumps(ids))
    export(registry, "mix", root / "stock", format="qwen2_moe")
    found = {}
    for name, python in pythons.items():
        command = [python, "-I", "-c", READ, root / "stock", root / "ids.json"]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        theirs = torch.tensor(json.loads(run.stdout.splitlines()[-1]))
        found[name] = (theirs - ours).gather(1, tops).abs().max().item()
    for dtype in dtypes:
        export(registry, "mix", root / dtype, format="gguf", dtype=dtype)
        reader = LlamaCpp(root / dtype / "model.gguf")
        assert all(reader.token_ids(text) == mix.tokenizer(text)["input_ids"] for text in TEXTS)
        found[f"llama.cpp {dtype}"] = max(
            abs(ours[i, token].item() - value)
            for i, row in enumerate(ids)
            for token, value in reader.top_log_probs(row, count=5).items()
        )
    registry.engine.dispose()
    return found


def main() -> None:
    """Print a Markdown table with one row per variant of the mix and one column per reader."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", type=Path, help="an environment with another transformers version")
    parser.add_argument("--dtypes", nargs="*", default=["float32", "float16", "bfloat16", "q8_0"])
    arguments = parser.parse_args()
    pythons = {"transformers": Path(sys.executable)}
    if arguments.environment:
        pythons["other transformers"] = arguments.environment / "bin" / "python"
    readers = [*pythons, *(f"llama.cpp {dtype}" for dtype in arguments.dtypes)]
    print("| mix | " + " | ".join(readers) + " |\n|" + "---|" * (len(readers) + 1))
    with tempfile.TemporaryDirectory(prefix="nexusmix-") as temporary:
        for tied, combine in ((True, "additive"), (False, "convex"), (True, "convex"), (False, "additive")):
            name = f"{'tied' if tied else 'untied'}, {combine}"
            found = differences(Path(temporary) / name, pythons, arguments.dtypes, tied=tied, combine=combine)
            print(
                f"| {name} | " + " | ".join(f"{found[reader]:.1e}" for reader in readers) + " |", flush=True
            )


if __name__ == "__main__":
    main()
