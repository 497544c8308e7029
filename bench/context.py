"""Compare gates with and without context, and whole experts: python -m bench.context HOME [--anchored DIR] [--free].

HOME is a copy of a demo's registry, with its seed, free experts and corpora; this program writes mixes to it. DIR has
one folder per domain with an anchored expert: `nexusmix train-expert --freeze-trunk` on that domain's corpus. Without
a gradient step, each kind of experts is composed with all four domains, and with three and extended by the fourth.
Whole experts have no random seed, so they are measured once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch

from composer.bits_per_byte import bits_per_byte, windows
from composer.composition import compose
from composer.evaluation.changing_text import changing_text, measure, mixture_choices, stream_of
from composer.evaluation.evaluate import score_mix
from composer.extension import extend
from composer.formats import export
from composer.mix.lock import lock_expert, lock_seed
from composer.mix.opening import find_mix, open_dense, open_mix, open_seed
from composer.mix.recipe import Recipe, Training
from registry.catalog import queries
from registry.domains import documents
from registry.errors import NotFoundError
from registry.home import Registry, open_registry
from registry.intake.intake import contribute

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

SEED, DOMAINS, NEW = "demo-seed", ("python", "math", "prose", "cpp"), "cpp"
WHOLE = "whole"
GATES: Mapping[str, Mapping[str, Any]] = {
    "nexus": {"router": "nexus", "trunk_merge": "regmean"},
    "nexus_context": {"router": "nexus_context", "trunk_merge": "regmean"},
    WHOLE: {"trunk_merge": "routed"},
}
LENGTHS = (8, 32, 200)  # of prompts in tokens
EVALUATED_BYTES = 30_000
HEAD = (
    "| experts | mix | gates | bpb | kept of the gain | "
    + " | ".join(DOMAINS)
    + " | own share | changing, own |"
)


def contribute_anchored(registry: Registry, folder: Path) -> None:
    """Contribute the anchored experts as `<domain>-anchored`, if they are not in the registry."""
    for domain in DOMAINS:
        try:
            queries.get_expert(registry, f"{domain}-anchored")
        except NotFoundError:
            data = [registry.home / "corpora" / domain]
            contribute(
                registry, f"{domain}-anchored", folder / domain, seed=SEED, license="Apache-2.0", data=data
            )


class Lab:
    """Held-out text of all domains, and the scores of the seed and of each domain's own expert on it."""

    def __init__(self, registry: Registry, experts: Sequence[str]) -> None:
        self.registry, self.experts = registry, experts
        seed = queries.get_seed(registry, SEED)
        _, records = queries.get_parts(registry, SEED, list(experts))
        dense = [lock_expert(record) for record in records]
        seed_model = open_seed(registry, lock_seed(seed))
        limit = seed_model.model.config.max_position_embeddings
        self.texts = {}
        for name, record in zip(experts, records, strict=True):
            text = documents.load_documents(registry.blobs, str(record.held_out))
            self.texts[name] = windows(
                seed_model.tokenizer, text, max_bytes=EVALUATED_BYTES, length=min(512, limit)
            )
        self.seed = {name: bits_per_byte(seed_model.model, text) for name, text in self.texts.items()}
        self.own = {
            name: bits_per_byte(
                open_dense(registry, lock_seed(seed), e.ffn, e.trunk, ffn_width=e.ffn_width), self.texts[name]
            )
            for name, e in zip(experts, dense, strict=True)
        }
        streams = {name: stream_of(text) for name, text in self.texts.items()}
        self.changing = changing_text(seed_model.tokenizer, streams, rows=16)

    def score(self, ref: str) -> dict[str, Any]:
        """Bits per byte and own share of a mix on its members' domains, and on changing text if it has all."""
        _, manifest = find_mix(self.registry, ref)
        model = open_mix(self.registry, manifest).model
        refs = [member.expert.ref for member in manifest.members]
        texts = {name: text for name, text in self.texts.items() if f"{name}@1" in refs}
        found = score_mix(model, refs, texts)
        own = {name: shares[f"{name}@1"] for name, shares in found["routing"].items()}
        result = {"bits": found["bits_per_byte"], "own": own}
        if len(refs) == len(self.experts):
            result["changing"] = measure(model, self.changing, mixture_choices(model))
        return result

    def measured(self, name: str, gates: str, random_seed: int) -> dict[str, dict[str, Any]]:
        """Scores of a mix of all experts (`all`), of all but the last (`old`), and of its extension (`extended`)."""
        training = Training(tokens=0, random_seed=random_seed)
        settings = {**GATES[gates], "training": training}
        found = {}
        for part, members in (("all", self.experts), ("old", self.experts[:-1])):
            recipe = Recipe(name=f"{name}-{part}", seed=SEED, experts=list(members), **settings)
            found[part] = self.score(compose(self.registry, recipe).mix.ref)
        mix = extend(self.registry, f"{name}-old", self.experts[-1], training=training)
        return {**found, "extended": self.score(mix.mix.ref)}

    def agreement(self, ref: str, dtype: str) -> float:
        """Largest difference from llama.cpp's five highest log-probabilities, over three prompts per domain."""
        from llama_cpp import LlamaCpp

        mix = open_mix(self.registry, find_mix(self.registry, ref)[1])
        found = 0.0
        with tempfile.TemporaryDirectory(prefix="nexusmix-") as folder:
            export(self.registry, ref, Path(folder) / dtype, format="gguf", dtype=dtype)
            reader = LlamaCpp(Path(folder) / dtype / "model.gguf")
            for text in self.texts.values():
                for length in LENGTHS:
                    ids = text.windows[0][:length].tolist()
                    with torch.inference_mode():
                        ours = mix.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
                    theirs = reader.top_log_probs(ids, count=5)
                    found = max(found, *(abs(ours[token].item() - value) for token, value in theirs.items()))
        return found

    def kept(self, bits: Mapping[str, float]) -> float:
        """Share of the experts' gain over the seed, on the mean of the domains."""
        seed, own, mix = (fmean(scores[d] for d in bits) for scores in (self.seed, self.own, bits))
        return (seed - mix) / (seed - own)

    def row(self, label: str, found: Sequence[Mapping[str, Any]]) -> str:
        """One line of the table: means over the random seeds, and the deviation of the mean bpb."""
        names = list(found[0]["bits"])
        means = [fmean(each["bits"].values()) for each in found]
        gains = [fmean(self.kept({name: each["bits"][name]}) for each in found) for name in names]
        shares = [fmean(each["own"][name] for each in found) for name in names]
        cells = [
            f"{fmean(means):.3f} ± {pstdev(means):.3f}",
            f"{fmean(self.kept(each['bits']) for each in found):.0%}",
            *(f"{gain:.0%}" for gain in gains),
            *("–" for _ in range(len(DOMAINS) - len(gains))),
            " ".join(f".{round(100 * share):02d}" for share in shares),
            "–",
        ]
        if "changing" in found[0]:
            bits, own = ([each["changing"][key] for each in found] for key in ("bits_per_byte", "own"))
            cells[-1] = f"{fmean(bits):.3f}, .{round(100 * fmean(own)):02d}"
        return f"| {label} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--anchored", type=Path)
    parser.add_argument("--free", action="store_true", help="measure the free experts too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gates", nargs="*", choices=GATES, default=tuple(GATES))
    arguments = parser.parse_args()
    registry = open_registry(arguments.home)
    kinds = {}
    if arguments.anchored:
        contribute_anchored(registry, arguments.anchored)
        kinds["anchored"] = [f"{domain}-anchored" for domain in DOMAINS]
    if arguments.free:
        kinds["free"] = list(DOMAINS)
    print(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}", flush=True)
    for kind, experts in kinds.items():
        lab = Lab(registry, experts)
        for label, scores in (("seed", lab.seed), ("own experts", lab.own)):
            print(
                f"- {kind}, {label}: {fmean(scores.values()):.3f} "
                + " ".join(f"{s:.3f}" for s in scores.values()),
                flush=True,
            )
        for gates in arguments.gates:
            random_seeds = range(1 if gates == WHOLE else arguments.seeds)
            found = [lab.measured(f"bench-{kind}-{gates}-{seed}", gates, seed) for seed in random_seeds]
            for part in ("all", "old", "extended"):
                label = f"{kind} | {part} | {gates}"
                print(lab.row(label, [each[part] for each in found]), flush=True)
            changes = [
                fmean(each["extended"]["bits"][d] / bits - 1 for d, bits in each["old"]["bits"].items())
                for each in found
            ]
            print(f"- {kind}, {gates}: old domains at extension {fmean(changes):+.2%}", flush=True)
            for dtype in ("float32", "q8_0") if gates != WHOLE else ():
                largest = lab.agreement(f"bench-{kind}-{gates}-0-old", dtype)
                print(f"- {kind}, {gates}, llama.cpp {dtype}: largest difference {largest:.1e}", flush=True)


if __name__ == "__main__":
    main()
