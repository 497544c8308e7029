"""Evaluate a mix: bits per byte of the mix and the baselines on each member's held-out text, and routing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from composer import processes
from composer.bits_per_byte import HeldOut, ScoreCache, bits_per_byte, windows
from composer.errors import MissingTextError
from composer.evaluation import changing_text
from composer.evaluation.changing_text import ChangingText
from composer.evaluation.contenders import (
    CHANGING,
    EXPERT,
    MIX,
    ORACLE,
    Contender,
    Evaluation,
    dense_merging,
    domains,
    dume_baseline,
    expert_contender,
    nearest_expert,
    other_mixes,
    seed_contender,
)
from composer.mix.masking import mask, places
from composer.mix.opening import (
    Manifest,
    computing_dtype,
    find_mix,
    open_model,
    open_tokenizer,
    seed_config,
)
from composer.model.modeling import forced
from composer.processes import Team
from composer.progress import Progress, silent
from registry.catalog import queries
from registry.domains import documents
from registry.home import Registry

MAX_BYTES = 200_000
WINDOW = 512


@processes.led
def evaluate(
    registry: Registry,
    mix_ref: str,
    *,
    against: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
    active_experts: Sequence[str] | None = None,
    oracle: bool = False,
    dume: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Compare a mix with its seed, each domain's own expert, dense merging and other mixes, on held-out text.

    Returns the following, which is also stored with the mix:
        {"mix": ref,
         "bits_per_byte": {domain: {"seed", "expert", "btm", "dense_merging", "mix", other ref …: bits per byte}},
         "mean": {column: mean over the domains},
         "routing": {domain: {expert ref: share of tokens}}, shares sum to 1, mean over blocks,
         "text": {domain: {"sha256": of the text pieces and the window length, "bytes": size of the pieces}},
         "routing_by_layer": {domain: {expert ref: [share in each block]}},
         "experts_per_token": {domain: mean number of routed experts, without null experts},
         "changing": {"bits_per_byte": {column: …}, "own": …, "by_distance": …}}

    "btm" sends each row to the dense expert nearest to its first tokens. "changing" is text that changes domain in the
    middle of a row (changing_text.py); there "expert" is each token's own expert, and the last two are the mix's.
    It is left out unless every member has enough held-out text.

    `dume` adds the mix that DUME (arXiv 2603.29765) makes of the same experts.

    A domain has the name of its expert. Dense merging (the mean of all experts and the seed) is omitted if FFN
    widths differ. `oracle` adds a column of that name: every token is sent to its own domain's expert, the upper
    limit for a router that knows the domain. `active_experts` masks the mix's other experts. Masking is not removal:
    their influence on the merged trunk stays; use `remove` to remove them. The result then contains
    "active_experts" and is not stored.

    Several processes (composer/processes.py) share the models other than the mix.

    Raises NotFoundError, MissingTextError if no member has held-out text, and RecipeError if `active_experts`
    contains an expert that is not a member.
    """
    record, manifest = find_mix(registry, mix_ref)
    active = places(manifest, active_experts)
    compared = _compared(registry, manifest, against, max_bytes, dume)
    scores, texts, changing = compared.scores, compared.scores.texts, compared.scores.text
    steps = len(compared.baselines) + 1 + len(compared.others)
    progress("evaluating", 0, steps)
    team = processes.current()
    if team.size > 1:
        team.share(score_share, record.ref, against, max_bytes, dume, compared=compared)
    scores.add_own(compared.own)
    for done, contender in enumerate(compared.baselines, 1):
        scores.add(contender)
        progress("evaluating", done, steps)
    refs = [member.expert.ref for member in manifest.members]
    model = open_model(registry, manifest)
    shares = score_mix(model, refs, texts, active)
    scores.put(MIX, shares.pop("bits_per_byte"))
    if changing is not None:
        with mask(model, active):
            scores.changing = changing_text.measure(model, changing, changing_text.mixture_choices(model))
        scores.changed[MIX] = scores.changing.pop("bits_per_byte")
    if oracle:
        order = {domain: place for place, domain in enumerate(domains(manifest))}
        scores.put(ORACLE, score_oracle(model, texts, order))
    progress("evaluating", len(compared.baselines) + 1, steps)
    for done, other in enumerate(compared.others, len(compared.baselines) + 2):
        scores.add(other)
        progress("evaluating", done, steps)
    result: Evaluation = {
        "mix": record.ref,
        "text": {domain: text.signature() for domain, text in texts.items()},
        "bits_per_byte": scores.by_domain,
        "mean": _mean(scores.by_domain),
        **shares,  # type: ignore[typeddict-item]
    }
    if scores.changed:
        result["changing"] = {"bits_per_byte": scores.changed, **scores.changing}
    if active is not None:
        result["active_experts"] = [manifest.members[place].expert.ref for place in active]
        return result
    tasks = (record.evaluation or {}).get("tasks")  # measured separately (harness.py), so kept
    queries.record_evaluation(
        registry, record.ref, {**result} if tasks is None else {**result, "tasks": tasks}
    )
    return result


@dataclass
class _Scores:
    """The scores of an evaluation so far, by domain and column, and those on changing text by column."""

    cache: ScoreCache
    texts: Mapping[str, HeldOut]
    text: ChangingText | None
    by_domain: dict[str, dict[str, float]] = field(default_factory=dict)
    changed: dict[str, float] = field(default_factory=dict)
    changing: dict[str, Any] = field(default_factory=dict)

    def put(self, column: str, scores: Mapping[str, float]) -> None:
        """Enter a column's score in each domain."""
        for domain, bits in scores.items():
            self.by_domain.setdefault(domain, {})[column] = bits

    def add(self, contender: Contender) -> None:
        """Score a contender on every domain and on changing text."""
        texts = dict(self.texts)
        if self.text is not None:
            texts[CHANGING] = changing_text.as_held_out(self.text)
        scores = dict(contender.scores(texts, self.cache))
        if self.text is not None:
            self.changed[contender.column] = scores.pop(CHANGING)
        self.put(contender.column, scores)

    def add_own(self, experts: Mapping[str, Contender]) -> None:
        """Score each domain's own expert, on its domain and on its tokens of changing text."""
        for domain, expert in experts.items():
            self.put(EXPERT, dict(expert.scores({domain: self.texts[domain]}, self.cache)))
        if self.text is not None:
            weights = ["own expert of each token", *(part for e in experts.values() for part in e.weights)]
            compute = partial(_own_bits, list(experts.values()), self.text)
            self.changed[EXPERT] = self.cache.get(weights, changing_text.as_held_out(self.text), compute)


@dataclass(frozen=True)
class _Compared:
    """The models that a mix is compared with, and the scores so far. `own` are the experts by domain."""

    scores: _Scores
    own: Mapping[str, Contender]
    baselines: Sequence[Contender]
    others: Sequence[Contender]


def _compared(
    registry: Registry, manifest: Manifest, against: Sequence[str], max_bytes: int, dume: bool
) -> _Compared:
    others = other_mixes(registry, against)
    texts = held_out_texts(registry, manifest, max_bytes)
    seed, members = manifest.seed, domains(manifest)
    changing = None
    if list(texts) == list(members):  # a member's index is then its domain's
        changing = changing_text.of_domains(open_tokenizer(registry.blobs, seed.files), texts)
    baselines = [
        seed_contender(registry, seed),
        nearest_expert(registry, manifest),
        dense_merging(registry, seed, [member.expert for member in manifest.members]),
        dume_baseline(registry, manifest) if dume else None,
    ]
    return _Compared(
        _Scores(ScoreCache(registry, computing_dtype(seed)), texts, changing),
        {name: expert_contender(registry, seed, members[name]) for name in texts},
        [contender for contender in baselines if contender is not None],
        others,
    )


def score_share(
    team: Team,
    mix_ref: str,
    against: Sequence[str],
    max_bytes: int,
    dume: bool,
    compared: _Compared | None = None,
) -> None:
    """Score this process's share of the models that a mix is compared with, for the registry's cache of scores.

    The first process passes what it `compared` already.
    """
    if compared is None:
        assert team.registry is not None
        _, manifest = find_mix(team.registry, mix_ref)
        compared = _compared(team.registry, manifest, against, max_bytes, dume)
    scores, own = compared.scores, compared.own
    each = [*compared.baselines, *compared.others]
    jobs = [partial(scores.add, contender) for contender in each] + [partial(scores.add_own, own)]
    for job in jobs[team.rank :: team.size]:
        job()
    team.wait()  # else the first process would score what the others have not finished


def _own_bits(experts: Sequence[Contender], text: ChangingText) -> float:
    return changing_text.own_experts_bits([expert.open() for expert in experts], text)


def held_out_texts(registry: Registry, manifest: Manifest, max_bytes: int) -> dict[str, HeldOut]:
    """Return up to `max_bytes` of each member's held-out text, by domain. Raises MissingTextError if there is none."""
    tokenizer = open_tokenizer(registry.blobs, manifest.seed.files)
    limit = seed_config(registry.blobs, manifest.seed).get("max_position_embeddings") or WINDOW
    texts = {}
    members = domains(manifest)
    refs = [expert.ref for expert in members.values()]
    _, records = queries.get_parts(registry, manifest.seed.name, refs)
    for domain, digest in zip(members, (record.held_out for record in records), strict=True):
        if digest is not None:
            text = documents.load_documents(registry.blobs, digest)
            texts[domain] = windows(tokenizer, text, max_bytes=max_bytes, length=min(WINDOW, limit))
    if not texts:
        raise MissingTextError("no member of this mix has held-out text: contribute an expert with --data")
    return texts


def score_mix(
    model: Any,
    refs: Sequence[str],
    texts: Mapping[str, HeldOut],
    active: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return a mix's bits per byte and routing shares on each text; `refs` name its experts in index order."""
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
    """Return a mix's bits per byte with every token sent, with weight 1, to the expert index of its domain."""
    scores = {}
    for domain, text in texts.items():
        with forced(model, places_of[domain]):
            scores[domain] = bits_per_byte(model, text)
    return scores


def _mean(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over domains of each column that every domain has."""
    columns = [c for c in next(iter(scores.values())) if all(c in row for row in scores.values())]
    return {c: sum(row[c] for row in scores.values()) / len(scores) for c in columns}
