"""The demo's workflow: text → experts → registry → mix → evaluation → extension → report.

Each step first checks in the registry or on disk whether it is already done. A second run therefore changes
nothing, and an interrupted run resumes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.composition import compose
from composer.evaluation.evaluate import evaluate
from composer.evaluation.report import write_report
from composer.extension import extend
from composer.generation import continue_text
from composer.generation.sampling import Sampling
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe
from composer.progress import Progress
from registry.catalog import queries
from registry.errors import NotFoundError
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute
from registry.records import MixRecord
from ui.demo.corpora import DOMAINS, write_corpora
from ui.demo.parallel import Task, train_all

SEED = "demo-seed"
MEMBERS, NEWCOMER = ("python", "math", "prose"), "cpp"
EXPERT_TRAINING = {"tokens": 100_000, "learning_rate": 7e-4, "batch_tokens": 1024, "random_seed": 0}
# demo is extended later; the others are for comparison. demo-merged runs in every reader, demo-linear is BTX.
MIXES: Mapping[str, Mapping[str, Any]] = {
    "demo": {"trunk_merge": "routed"},
    "demo-merged": {"trunk_merge": "regmean", "training": {"tokens": 0}},
    "demo-linear": {
        "router": "linear",
        "trunk_merge": "regmean",
        "training": {"tokens": 50_000, "warm_start": False},
    },
}
RIVALS: Mapping[str, str] = {
    "dense merging": "dense_merging",
    "a merged trunk": "demo-merged@1",
    "a linear router with 50k tokens": "demo-linear@1",
}
KEPT = 0.9  # of the experts' gain
EVALUATED_BYTES = 30_000
PROMPTS = ("def read_lines(path):\n", "template <typename T>\nclass ")
SEED_FOLDER = Path(__file__).parent / "seed"


@dataclass(frozen=True)
class Finding:
    """One claim that the demo checks, with the measured values, and whether it is true (`held`)."""

    claim: str
    held: bool


def run_demo(home: Path, progress: Progress) -> dict[str, Any]:
    """Run the remaining steps of the demo in the registry at `home`.

    Returns {"home", "report", "seconds", "evaluations": [of demo@1, of demo@2], "findings": [{"claim", "held"}],
    "samples": [{"mix", "prompt", "text"}]}.
    """
    started = time.monotonic()
    registry = open_registry(home)
    corpora = home / "corpora"
    if not corpora.exists():
        _write_corpora(corpora, progress)
    _add_seed(registry, progress)
    train_all([_task(home, name) for name in DOMAINS], progress)
    for name in DOMAINS:
        _contribute(registry, home, name, progress)
    for name, settings in MIXES.items():
        _compose(registry, name, settings, progress)
    first = _evaluated(registry, "demo@1", ["demo-merged@1", "demo-linear@1"], progress)
    _extend(registry, progress)
    second = _evaluated(registry, "demo@2", ["demo@1"], progress)
    findings = check(first, second)
    report = home / "report.html"
    samples = _samples(registry) if not report.exists() else []
    if samples:
        write_report(
            registry,
            ["demo@1", "demo@2"],
            report,
            title="nexusmix demo",
            samples=[(s["mix"], s["prompt"], s["text"]) for s in samples],
            findings=[(finding.claim, finding.held) for finding in findings],
        )
    return {
        "home": str(home),
        "report": str(report),
        "seconds": time.monotonic() - started,
        "evaluations": [first, second],
        "findings": [{"claim": finding.claim, "held": finding.held} for finding in findings],
        "samples": samples,
    }


def check(first: dict[str, Any], second: dict[str, Any]) -> list[Finding]:
    """Check the demo's claims against the evaluations of demo@1 and demo@2."""
    scores, mean = first["bits_per_byte"], first["mean"]
    new, old = second["bits_per_byte"][NEWCOMER], [second["bits_per_byte"][name] for name in MEMBERS]
    worst = max(row["mix"] - row["seed"] for row in scores.values())
    kept, kept_new = share_kept(mean, "mix"), share_kept(new, "mix")
    change = max(row["mix"] / row["demo@1"] - 1 for row in old)
    own = {domain: shares[f"{domain}@1"] for domain, shares in second["routing"].items()}
    ahead = all(
        max(shares, key=lambda ref: shares[ref]) == f"{domain}@1"
        for evaluation in (first, second)
        for domain, shares in evaluation["routing"].items()
    )
    changing = second["changing"]["bits_per_byte"]
    others = {title: mean[column] for title, column in RIVALS.items()}
    beaten = ", ".join(f"{title} {bits:.3f}" for title, bits in others.items())
    return [
        Finding(
            f"demo@1 is better than the seed on every member domain, by at least {-worst:.3f} bits per byte",
            worst < 0,
        ),
        Finding(
            f"demo@1, without a gradient step, has a lower mean ({mean['mix']:.3f}) than {beaten}",
            all(mean["mix"] < bits for bits in others.values()),
        ),
        Finding(f"demo@1 keeps {kept:.0%} of its experts' gain over the seed", kept >= KEPT),
        Finding(f"every domain's own expert has its largest routing share ({_shares(own)} in demo@2)", ahead),
        Finding(f"demo@2 keeps {kept_new:.0%} of the dense {NEWCOMER} expert's gain", kept_new >= KEPT),
        Finding(f"the extension costs earlier domains at most {max(change, 0):.2%}", change < 0.005),
        Finding(
            f"on text that changes domain demo@2 keeps {share_kept(changing, 'mix'):.0%} of the gain, whole requests "
            f"to the nearest expert {share_kept(changing, 'btm'):.0%}",
            changing["mix"] < changing["btm"],
        ),
    ]


def share_kept(scores: Mapping[str, float], column: str) -> float:
    """Return the share of the experts' gain over the seed that a column reaches."""
    return (scores["seed"] - scores[column]) / (scores["seed"] - scores["expert"])


def _write_corpora(folder: Path, progress: Progress) -> None:
    """Write all corpora, and move them to `folder` only when they are complete."""
    import shutil

    unfinished = folder.with_name("corpora.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    write_corpora(unfinished, on_domain=lambda name, done, total: progress("writing corpora", done, total))
    unfinished.rename(folder)
    progress("writing corpora", len(DOMAINS), len(DOMAINS))


def _add_seed(registry: Registry, progress: Progress) -> None:
    try:
        queries.get_seed(registry, SEED)
    except NotFoundError:
        add_seed(
            registry,
            SEED,
            unpacked(SEED_FOLDER, registry.home / "seed"),
            license="Apache-2.0",
            description="A Llama of 2.5 million weights, trained on text of installed open-source packages.",
            progress=progress,
        )


def unpacked(shipped: Path, folder: Path) -> Path:
    """Write a shipped float16 seed to `folder` in float32: a CPU computes faster in it, and training works better."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(shipped, folder)
    weights = folder / "model.safetensors"
    save_file({name: t.float() for name, t in load_file(weights).items()}, weights, metadata={"format": "pt"})
    return folder


def _task(home: Path, name: str) -> Task:
    return Task(home, SEED, home / "corpora" / name, home / "experts" / name, EXPERT_TRAINING)


def _contribute(registry: Registry, home: Path, name: str, progress: Progress) -> None:
    try:
        queries.get_expert(registry, name)
    except NotFoundError:
        contribute(
            registry,
            name,
            home / "experts" / name,
            seed=SEED,
            license="Apache-2.0",
            data=[home / "corpora" / name],
            description=DOMAINS[name].title,
            progress=lambda stage, done, total: progress(f"contributing {name}", done, total),
        )


def _compose(registry: Registry, name: str, settings: Mapping[str, Any], progress: Progress) -> None:
    if _mix(registry, f"{name}@1") is None:
        recipe = Recipe.parse({"name": name, "seed": SEED, "experts": list(MEMBERS), **settings})
        compose(registry, recipe, progress=lambda *step: progress(f"{name}: {step[0]}", *step[1:]))


def _extend(registry: Registry, progress: Progress) -> None:
    if _mix(registry, "demo@2") is None:
        step = lambda stage, done, total: progress(f"extending: {stage}", done, total)  # noqa: E731
        extend(registry, "demo@1", NEWCOMER, progress=step)


def _evaluated(registry: Registry, ref: str, against: list[str], progress: Progress) -> dict[str, Any]:
    known = queries.get_mix(registry, ref).evaluation
    if known is not None and _is_ours(known, against):
        return known
    step = lambda stage, done, total: progress(f"evaluating {ref}", done, total)  # noqa: E731
    return {**evaluate(registry, ref, against=against, max_bytes=EVALUATED_BYTES, progress=step)}


def _is_ours(evaluation: dict[str, Any], against: list[str]) -> bool:
    """Return whether the evaluation has the demo's text limit and mixes, so that no later one of the user is used."""
    texts = evaluation.get("text", {}).values()
    return (
        bool(texts)
        and all(text["bytes"] <= EVALUATED_BYTES for text in texts)
        and all(ref in row for row in evaluation["bits_per_byte"].values() for ref in against)
    )


def _samples(registry: Registry) -> list[dict[str, str]]:
    _, manifest = find_mix(registry, "demo@2")
    mix = open_mix(registry, manifest)
    sampling = Sampling(max_new_tokens=80, temperature=0.7)
    texts = [(prompt, continue_text(mix, prompt, sampling).text) for prompt in PROMPTS]
    return [{"mix": "demo@2", "prompt": prompt, "text": text} for prompt, text in texts]


def _mix(registry: Registry, ref: str) -> MixRecord | None:
    try:
        return queries.get_mix(registry, ref)
    except NotFoundError:
        return None


def _shares(own: dict[str, float]) -> str:
    return ", ".join(f"{domain} {share:.0%}" for domain, share in own.items())
