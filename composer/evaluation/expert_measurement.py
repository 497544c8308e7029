"""Transfer: bits per byte of one dense expert and its seed on held-out text of other domains."""

from __future__ import annotations

from typing import Any

from composer.bits_per_byte import HeldOut, ScoreCache, windows
from composer.errors import MissingTextError
from composer.evaluation.contenders import expert_contender, seed_contender
from composer.mix.lock import lock_expert, lock_seed
from composer.mix.opening import computing_dtype, open_tokenizer, seed_config
from composer.progress import Progress, silent
from registry.catalog import queries
from registry.domains import documents
from registry.home import Registry
from registry.records import Digest, ExpertRecord

MOST_DOMAINS = 8
MAX_BYTES = 100_000
WINDOW = 512
GENERAL = "general"


def measure_transfer(
    registry: Registry,
    expert_ref: str,
    *,
    domains: int = MOST_DOMAINS,
    max_bytes: int = MAX_BYTES,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure an expert and its seed on held-out text of the expert, the seed and the nearest other domains.

    Returns the following, which is also stored with the expert:
        {"expert": ref, "text": {domain: its signature, as in `evaluate`},
         "bits_per_byte": {domain: {"seed": bits per byte, "expert": bits per byte}}}

    A domain has the reference of its expert (`name@version`) as its name; the seed's held-out text is "general".
    Raises NotFoundError, and MissingTextError if there is no held-out text at all.
    """
    expert = queries.get_expert(registry, expert_ref)
    record = queries.get_seed(registry, expert.seed)
    seed = lock_seed(record)
    held_out: dict[str, Digest | None] = {expert.ref: expert.held_out, GENERAL: record.held_out}
    held_out |= {other.ref: other.held_out for other in _nearest(registry, expert, domains)}
    texts = _texts(registry, expert, held_out, max_bytes)
    contenders = [seed_contender(registry, seed), expert_contender(registry, seed, lock_expert(expert))]
    cache = ScoreCache(registry, computing_dtype(seed))
    scores: dict[str, dict[str, float]] = {domain: {} for domain in texts}
    done, total = 0, len(contenders) * len(texts)
    for contender in contenders:
        progress("measuring", done, total)
        for domain, bits in contender.scores(texts, cache):
            scores[domain][contender.column] = bits
            done += 1
            progress("measuring", done, total)
    result = {
        "expert": expert.ref,
        "text": {domain: text.signature() for domain, text in texts.items()},
        "bits_per_byte": scores,
    }
    queries.record_measurement(registry, expert.ref, result)
    return result


def _nearest(registry: Registry, expert: ExpertRecord, count: int) -> list[ExpertRecord]:
    """Return the experts of the same seed with the nearest domains, one version per name, without this name."""
    hits = queries.search(registry, expert.embedding.mean, seed=expert.seed, limit=4 * count + 1)
    by_name: dict[str, ExpertRecord] = {}
    for hit in hits:
        if hit.expert.name != expert.name and hit.expert.held_out is not None:
            known = by_name.get(hit.expert.name)
            if known is None or hit.expert.version > known.version:
                by_name[hit.expert.name] = hit.expert
    return list(by_name.values())[:count]


def _texts(
    registry: Registry, expert: ExpertRecord, held_out: dict[str, Digest | None], max_bytes: int
) -> dict[str, HeldOut]:
    seed = lock_seed(queries.get_seed(registry, expert.seed))
    tokenizer = open_tokenizer(registry.blobs, seed.files)
    limit = seed_config(registry.blobs, seed).get("max_position_embeddings") or WINDOW
    texts = {
        domain: windows(
            tokenizer,
            documents.load_documents(registry.blobs, digest),
            max_bytes=max_bytes,
            length=min(WINDOW, limit),
        )
        for domain, digest in held_out.items()
        if digest is not None
    }
    if not texts:
        raise MissingTextError(
            f"no held-out text: neither {expert.ref}, its seed nor an expert near it has any; "
            "contribute a version with --data"
        )
    return texts
