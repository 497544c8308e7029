"""Evaluate a mix: bits per byte on each member's held-out text, beside the baselines, and where tokens go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from composer.bits import HeldOut, ScoreCache, bits_per_byte, windows
from composer.errors import MissingTextError
from composer.lock import LockedExpert, LockedSeed
from composer.masking import mask, places
from composer.mix import Manifest, build_dense, find_mix, open_dense, open_mix, open_tokenizer, seed_config
from composer.modeling import forced
from composer.progress import Progress, silent
from composer.weights import TORCH_DTYPES, map_tensors
from registry import catalog, documents
from registry.home import Registry

MAX_BYTES = 200_000
WINDOW = 512


def evaluate(
    registry: Registry,
    mix_ref: str,
    *,
    against: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
    active_experts: Sequence[str] | None = None,
    oracle: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compare a mix with its seed, each domain's own expert, dense merging and other mixes, on unseen text.

    Returns, and records with the mix:
        {"mix": ref,
         "bits_per_byte": {domain: {"seed", "expert", "dense_merging", "mix", other ref …: bits per byte}},
         "mean": the same over the domains,
         "routing": {domain: {expert ref: share of tokens}}, shares sum to 1, mean over blocks,
         "text": {domain: {"sha256": of its pieces and the length of a window, "bytes": their sum}},
         "routing_by_layer": {domain: {expert ref: [share in each block]}},
         "experts_per_token": {domain: mean number of routed experts, null experts not counted}}

    A domain is named after its expert. Dense merging (the mean of all experts and the seed) is left out where
    FFN widths differ. `oracle` adds a column of that name: every token sent to its own domain's expert, the
    ceiling of a router that knows the domain. `active_experts` masks the mix's other experts: masking is not
    removal, their influence on the averaged trunk stays; use `remove`. What is measured then carries
    "active_experts" and is not recorded.

    Raises NotFoundError, MissingTextError when no member has held-out text, RecipeError for `active_experts`
    that are no members.
    """
    record, manifest = find_mix(registry, mix_ref)
    active = places(manifest, active_experts)
    others = [find_mix(registry, ref) for ref in against]
    texts = held_out_texts(registry, manifest, max_bytes)
    cache = ScoreCache(registry.home / "cache" / "scores")
    steps = 4 + len(others)
    scores: dict[str, dict[str, float]] = {domain: {} for domain in texts}

    def score(
        column: str, weights: Sequence[str], open_model: Callable[[], Any], only: str | None = None
    ) -> None:
        """Fill a column; the model is opened only if a score is not known yet."""
        model: list[Any] = []

        def compute(domain: str) -> float:
            model.append(model[0] if model else open_model())
            return bits_per_byte(model[0], texts[domain])

        for domain in texts if only is None else [only]:
            scores[domain][column] = cache.get(weights, texts[domain], partial(compute, domain))

    seed = manifest.seed
    progress("evaluating", 0, steps)
    score("seed", [seed.ffn, seed.trunk], lambda: open_dense(registry, seed, seed.ffn, seed.trunk))
    progress("evaluating", 1, steps)
    for domain, member in _domains(manifest).items():
        if domain in texts:
            e = member.expert
            opened = lambda e=e: open_dense(registry, seed, e.ffn, e.trunk, ffn_width=e.ffn_width)  # noqa: E731
            score("expert", [e.ffn, e.trunk], opened, only=domain)
    progress("evaluating", 2, steps)
    if len({m.expert.ffn_width for m in manifest.members} | {_seed_width(registry, manifest)}) == 1:
        key = ["dense merging", seed.ffn, seed.trunk, *sorted(m.expert.ffn for m in manifest.members)]
        experts = [member.expert for member in manifest.members]
        score("dense_merging", key, lambda: open_dense_merging(registry, seed, experts))
    progress("evaluating", 3, steps)
    refs = [member.expert.ref for member in manifest.members]
    model = open_mix(registry, manifest).model
    shares = score_mix(model, refs, texts, active)
    if oracle:
        places_of = {domain: place for place, domain in enumerate(_domains(manifest))}
        for domain, bits in score_oracle(model, texts, places_of).items():
            scores[domain]["oracle"] = bits
    for domain, bits in shares.pop("bits_per_byte").items():
        scores[domain]["mix"] = bits
    progress("evaluating", 4, steps)
    for done, (other, other_manifest) in enumerate(others, 5):
        opened = lambda m=other_manifest: open_mix(registry, m).model  # noqa: E731
        score(other.ref, [other.manifest], opened)
        progress("evaluating", done, steps)
    result = {
        "mix": record.ref,
        "text": {domain: text.signature() for domain, text in texts.items()},
        "bits_per_byte": scores,
        "mean": _mean(scores),
        **shares,
    }
    if active is not None:
        return {**result, "active_experts": [manifest.members[place].expert.ref for place in active]}
    tasks = (record.evaluation or {}).get("tasks")  # measured apart (tasks.py), and kept
    catalog.record_evaluation(registry, record.ref, result if tasks is None else {**result, "tasks": tasks})
    return result


def open_dense_merging(registry: Registry, seed: LockedSeed, experts: Sequence[LockedExpert]) -> Any:
    """The paper's dense merging: one dense model, the mean of all experts and the seed, in every parameter."""
    path = registry.blobs.path
    models = [(seed.ffn, seed.trunk), *((expert.ffn, expert.trunk) for expert in experts)]
    mapped = [map_tensors(path(ffn)) | map_tensors(path(trunk)) for ffn, trunk in models]
    merged = {}
    for name, tensor in mapped[0].items():
        total = torch.zeros(tensor.shape)
        for tensors in mapped:
            total += tensors[name]
        merged[name] = total / len(mapped)
    return build_dense(seed_config(registry.blobs, seed), merged, TORCH_DTYPES[seed.dtype])


def _domains(manifest: Manifest) -> dict[str, Any]:
    """Members by the name of their domain: the expert's name, with its version where two share a name."""
    names = [member.expert.ref.split("@")[0] for member in manifest.members]
    return {
        name if names.count(name) == 1 else member.expert.ref: member
        for name, member in zip(names, manifest.members, strict=True)
    }


def held_out_texts(registry: Registry, manifest: Manifest, max_bytes: int) -> dict[str, HeldOut]:
    """Up to `max_bytes` of each member's held-out text, by domain. Raises MissingTextError where none has any."""
    tokenizer = open_tokenizer(registry.blobs, manifest.seed.files)
    limit = seed_config(registry.blobs, manifest.seed).get("max_position_embeddings") or WINDOW
    texts = {}
    for domain, member in _domains(manifest).items():
        digest = catalog.get_expert(registry, member.expert.ref).held_out
        if digest is not None:
            text = documents.load_documents(registry.blobs, digest)
            texts[domain] = windows(tokenizer, text, max_bytes=max_bytes, length=min(WINDOW, limit))
    if not texts:
        raise MissingTextError("no member of this mix has held-out text: contribute an expert with --data")
    return texts


def _seed_width(registry: Registry, manifest: Manifest) -> int:
    return int(seed_config(registry.blobs, manifest.seed)["intermediate_size"])


def score_mix(
    model: Any,
    refs: Sequence[str],
    texts: Mapping[str, HeldOut],
    active: Sequence[int] | None = None,
) -> dict[str, Any]:
    """A mix's bits per byte on each text, and where its tokens went; `refs` name its experts in their order."""
    scores: dict[str, float] = {}
    routing: dict[str, dict[str, float]] = {}
    by_layer: dict[str, dict[str, list[float]]] = {}
    per_token: dict[str, float] = {}
    for domain, text in texts.items():
        counts_LN = torch.zeros(len(model.mixtures()), len(refs), dtype=torch.float64)
        tokens_L = torch.zeros(len(model.mixtures()), dtype=torch.float64)

        def count(counts_LN: torch.Tensor = counts_LN, tokens_L: torch.Tensor = tokens_L) -> None:
            for layer, mixture in enumerate(model.mixtures()):
                counts_LN[layer] += mixture.routing.counts()[: len(refs)].cpu()
                tokens_L[layer] += len(mixture.routing.chosen)

        with mask(model, active):
            scores[domain] = bits_per_byte(model, text, after_batch=count)
        share_LN = counts_LN / counts_LN.sum(dim=1, keepdim=True).clamp(min=1)
        routing[domain] = dict(zip(refs, share_LN.mean(dim=0).tolist(), strict=True))
        by_layer[domain] = dict(zip(refs, share_LN.T.tolist(), strict=True))
        per_token[domain] = (counts_LN.sum() / tokens_L.sum()).item()
    return {
        "bits_per_byte": scores,
        "routing": routing,
        "routing_by_layer": by_layer,
        "experts_per_token": per_token,
    }


def score_oracle(model: Any, texts: Mapping[str, HeldOut], places_of: Mapping[str, int]) -> dict[str, float]:
    """A mix's bits per byte with every token of a domain sent to the expert at its place, with weight 1."""
    scores = {}
    for domain, text in texts.items():
        with forced(model, places_of[domain]):
            scores[domain] = bits_per_byte(model, text)
    return scores


def _mean(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Columns that every domain has, averaged over the domains."""
    columns = [c for c in next(iter(scores.values())) if all(c in row for row in scores.values())]
    return {c: sum(row[c] for row in scores.values()) / len(scores) for c in columns}
