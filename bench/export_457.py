"""Open exported mixes with transformers 4.57: python -m bench.export_457 [--environment DIR].

Composes pico mixes of every seed family that Qwen2-MoE can express and exports them with `--format qwen2_moe`. A
separate environment (transformers 4.57 and the same torch, without nexusmix) loads each folder. Checks: no missing
or unexpected key, equal token ids, logits within 1e-4 of the mix's, equal greedy tokens.
Without --environment the environment is created in a temporary folder, which takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import torch

from composer.composition import compose
from composer.formats import export
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import pico

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama-convex": ("llama", {}, {"combine": "convex"}),
    "llama-additive": ("llama", {}, {"combine": "additive"}),
    "llama-tied-top-2": ("llama", {"tie_word_embeddings": True}, {"top_k": 2}),
    "llama-rope-llama3": ("llama", {"rope_parameters": LLAMA3}, {}),
    "llama-linear-router": ("llama", {}, {"router": "linear"}),
    "mistral": ("mistral", {"sliding_window": None}, {"combine": "additive"}),
    "qwen2": ("qwen2", {}, {}),
}
PROMPT = " ".join(pico.domain_documents("code", count=1)[0].split()[:25])
NEW_TOKENS, TOLERANCE = 24, 1e-4
# Runs in the other environment. argv: a folder, the prompt, and a JSON file with the mix's own outputs.
CHECK = """
import json, sys
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, prompt, said = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
ids = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")["input_ids"]
reference = torch.tensor([said["ids"]])
with torch.inference_mode():
    logits = model(reference).logits
    new = said["written"]
    written = model.generate(
        reference, max_new_tokens=len(new) - reference.shape[1], do_sample=False, eos_token_id=-1, pad_token_id=2
    )[0].tolist()
print(json.dumps({
    "transformers": transformers.__version__, "class": type(model).__name__,
    "keys": sorted(info["missing_keys"]) + sorted(info["unexpected_keys"]),
    "difference": (logits - torch.tensor(said["logits"])).abs().max().item(),
    "same_ids": ids[0].tolist() == said["ids"], "same_tokens": written == new,
}))
"""


def make_environment(folder: Path) -> Path:
    """Create an environment with transformers 4.57 and the running version of torch; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    packages = ["transformers==4.57.*", f"torch=={torch.__version__.split('+')[0]}"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def export_case(root: Path, case: str) -> dict[str, Any]:
    """Compose and export one case under `root`; return the mix's token ids, logits and generated tokens."""
    model_type, config, settings = CASES[case]
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed", model_type=model_type, initializer_range=0.2, **config)
    add_seed(registry, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number, scale=0.1)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    settings = {"trunk_merge": "regmean", **settings}
    untrained = Training(warm_start=False, tokens=0)
    compose(
        registry, Recipe(name="mix", seed="pico", experts=["code", "math"], training=untrained, **settings)
    )
    export(registry, "mix", root / "out", format="qwen2_moe")
    mix = open_mix(registry, find_mix(registry, "mix")[1])
    ids = mix.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = mix.model(ids).logits
        written = mix.model.generate(
            ids, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=2
        )
    registry.engine.dispose()
    return {"ids": ids[0].tolist(), "logits": logits.tolist(), "written": written[0].tolist()}


def main() -> int:
    """Run every case and print one line per case. Return 1 if any case differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", type=Path, help="an existing environment with transformers 4.57")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="nexusmix-") as temporary:
        root = Path(temporary)
        python = arguments.environment and arguments.environment / "bin" / "python"
        python = python or make_environment(root / "environment")
        for case in CASES:
            said = root / case / "said.json"
            said.parent.mkdir()
            said.write_text(json.dumps(export_case(said.parent, case)))
            command = [python, "-I", "-c", CHECK, said.parent / "out", PROMPT, said]
            run = subprocess.run(command, cwd=root, capture_output=True, text=True)
            if run.returncode:
                print(f"{case}: FAILED\n{run.stderr[-2000:]}")
                failed += 1
                continue
            got = json.loads(run.stdout.splitlines()[-1])
            right = (
                not got["keys"] and got["same_ids"] and got["same_tokens"] and got["difference"] <= TOLERANCE
            )
            failed += not right
            print(f"{case}: {'ok' if right else 'FAILED'} {json.dumps(got)}", flush=True)
    print(f"{len(CASES) - failed} of {len(CASES)} cases agree")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
