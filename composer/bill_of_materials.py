"""The bill of materials of a mix in the CycloneDX format: the mix, its seed, its experts and their texts, by digest.

Equal mixes give equal documents: the time is that of the mix, and the serial number is derived from its digest.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any

from composer.evaluation.comparison import gain_kept
from composer.extras import require
from composer.mix.named_blobs import own_weights, weights_of
from composer.mix.opening import Manifest, find_mix
from registry.catalog import queries
from registry.home import Registry
from registry.records import Digest, ExpertRecord, MixRecord, SeedRecord

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component

PREFIX = "nexusmix"  # of the names of properties


def bill_of_materials(registry: Registry, mix_ref: str) -> str:
    """Return the bill of materials of a mix as CycloneDX 1.6 JSON.

    Raises MissingExtraError, NotFoundError, IntegrityError, MixFormatError.
    """
    require("cyclonedx", "bom")
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.output.json import JsonV1Dot6

    record, manifest = find_mix(registry, mix_ref)
    seed, experts = queries.get_parts(
        registry, manifest.seed.name, [member.expert.ref for member in manifest.members]
    )
    mix = _mix(record, manifest)
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{record.ref} {record.manifest}"),
        metadata=BomMetaData(component=mix, timestamp=record.created_at.astimezone(UTC)),
    )
    base, *parts = [_seed(seed), *(_expert(expert) for expert in experts)]
    bom.register_dependency(mix, [base, *parts])
    for component, (owner, text, shared) in zip([base, *parts], _texts(seed, experts), strict=True):
        bom.components.add(component)
        needed = [] if component is base else [base]
        if text is not None:
            data = _text(owner, text, shared)
            bom.components.add(data)
            needed.append(data)
        bom.register_dependency(component, needed)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _mix(record: MixRecord, manifest: Manifest) -> Component:
    """The mix: its manifest's digest, its own blobs as files, and its lineage and measurements as properties."""
    facts: dict[str, Any] = {
        "lock": record.lock,
        "parent": record.parent,
        "routing": manifest.routing_label,
        "embedder": manifest.embedder,
        "license_override": manifest.license_override,
    }
    if record.evaluation is not None:
        facts["share_of_experts_gain_kept"] = gain_kept(record.evaluation)
        facts |= {
            f"bits_per_byte:{domain}:{column}": score
            for domain, row in record.evaluation["bits_per_byte"].items()
            for column, score in row.items()
        }
    return _model(
        record.name,
        str(record.version),
        license=manifest.license,
        description=manifest.routing_in_words,
        files={"manifest": record.manifest, **own_weights(manifest)},
        facts=facts,
    )


def _seed(seed: SeedRecord) -> Component:
    facts = {
        "role": "seed",
        "model_type": seed.model_type,
        "dtype": seed.dtype,
        "parameters": seed.parameters,
    }
    return _model(
        seed.name,
        None,
        license=seed.license,
        description=seed.description,
        files={"FFNs": seed.ffn, "trunk": seed.trunk, **seed.files},
        facts=facts,
    )


def _expert(expert: ExpertRecord) -> Component:
    facts = {
        "role": "expert",
        "seed": expert.seed,
        "dtype": expert.dtype,
        "parameters": expert.parameters,
        "anchored": expert.anchored,
        "embedder": str(expert.embedding.embedder),
        "withdrawn": expert.withdrawn,
        **{f"provenance:{name}": value for name, value in expert.provenance.items()},
    }
    return _model(
        expert.name,
        str(expert.version),
        license=expert.license,
        description=expert.description,
        files=weights_of(expert),
        facts=facts,
        source=expert.provenance.get("source"),
    )


def _model(
    name: str,
    version: str | None,
    *,
    license: str,
    description: str,
    files: Mapping[str, Digest],
    facts: Mapping[str, Any],
    source: object = None,
) -> Component:
    """Return a model as a component, with its files as its parts."""
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    ref = name if version is None else f"{name}@{version}"
    purl = None
    if isinstance(source, str) and source.startswith("hf:"):
        repository, _, commit = source.removeprefix("hf:").partition("@")
        owner, _, repository = repository.rpartition("/")
        purl = PackageURL("huggingface", owner or None, repository, commit or None)
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        version=version,
        bom_ref=ref,
        purl=purl,
        description=description or None,
        licenses=[LicenseFactory().make_from_string(license)],
        components=[
            Component(type=ComponentType.FILE, name=file, bom_ref=f"{ref}/{file}", hashes=[_hash(digest)])
            for file, digest in files.items()
        ],
        properties=list(_properties(facts)),
    )


def _texts(seed: SeedRecord, experts: Iterable[ExpertRecord]) -> Iterator[tuple[str, Digest | None, bool]]:
    """Yield the text that each model was contributed with: the model, the digest, whether the registry has the text."""
    yield seed.name, seed.sample, True
    for expert in experts:
        yield (
            expert.ref,
            expert.sample or f"sha256:{expert.embedding.sample_sha256}",
            expert.sample is not None,
        )


def _text(owner: str, digest: Digest, shared: bool) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.DATA,
        name=f"sample of the text of {owner}",
        bom_ref=f"text of {owner}",
        hashes=[_hash(digest)],
        properties=list(_properties({"shared": shared})),
    )


def _hash(digest: Digest) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))


def _properties(facts: Mapping[str, Any]) -> Iterator[Property]:
    from cyclonedx.model import Property

    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _properties({f"{name}:{key}": inner for key, inner in value.items()})
        elif value is not None:
            said = str(value).lower() if isinstance(value, bool) else str(value)
            yield Property(name=f"{PREFIX}:{name}", value=said)
