"""Manifest of a mix, and loading of mixes, seeds and dense experts into memory."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from composer import resources
from composer.errors import MixFormatError
from composer.mix.lock import LockedExpert, LockedSeed, canonical_json
from composer.mix.routed_parts import Base, Difference, Parts
from composer.mix.router_blob import of_layers
from composer.mix.routing import Combine, RoutingOptions
from composer.mix.tensor_names import PREFIX, context_name, name_in_mixture, router_name
from registry.blobs import BlobStore, read_files
from registry.catalog import queries
from registry.catalog.lifecycle import refuse_purged
from registry.checkpoints.families import Family, family_of
from registry.checkpoints.low_rank import pair_names
from registry.checkpoints.safe_files import printable
from registry.home import Registry
from registry.records import Digest, MixRecord

if TYPE_CHECKING:
    import torch

    from composer.model.modeling import NexusConfig
    from composer.tensors.weights import Weight

# Building a model replaces functions of torch for a moment; two threads at once would restore the wrong ones.
_BUILDING = threading.Lock()


class Member(BaseModel):
    """A routed expert of a mix. `ffn` is the expert's own blob, unless the fine-tune trained the FFNs.

    The others are for routed trunks. The expert takes part as seed + strength · (expert − seed). `difference` is the
    low-rank difference that a fine-tune added to this; it includes that of an expert which is stored as one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    expert: LockedExpert
    ffn: Digest
    strength: float = 1.0
    difference: Digest | None = None

    @property
    def weights(self) -> list[Digest]:
        """Blobs that the mix has of this expert in place of the expert's own, or that are the expert's own."""
        return [digest for digest in (self.ffn, self.difference) if digest is not None]

    def added(self) -> Difference | None:
        """Return the low-rank difference that a fine-tune stored, else the expert's own at its strength."""
        if self.difference is not None:
            return Difference(self.difference, 1.0)
        if self.expert.difference is not None:
            return Difference(self.expert.difference, self.strength)
        return None


class Manifest(RoutingOptions):
    """A mix as digests of blobs. It contains no name and no time, so equal locks give equal manifests."""

    format: Literal["nexusmix-mix/1"] = "nexusmix-mix/1"
    seed: LockedSeed
    members: list[Member]
    shared: Digest
    trunk: Digest
    difference: Digest | None = None  # low-rank, of a merged trunk and its FFNs (merged_parts.py)
    routed_trunk: bool = False  # each token passes through one whole expert; `trunk` is the seed's
    router: Digest
    router_kind: str
    combine: Combine  # this and top_k have no default here, so `to_bytes` always writes them
    top_k: int
    load_balance: float
    domain_dim: int
    embedder: str
    license: str
    license_override: str | None
    lock: Digest
    parent: Digest | None
    training: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Return canonical JSON.

        Fields with a default were added later. They are omitted at their default, so old manifests keep their digests.
        """
        return canonical_json({"format": self.format, **self.model_dump(exclude_defaults=True)})

    @property
    def routing_label(self) -> str:
        """Router, combination and selection in a few words."""
        if self.routed_trunk:
            return f"{self.router_kind} router, whole experts"
        return f"{self.router_kind} router, {self.combine} combination, {self.selection}"

    @property
    def routing_in_words(self) -> str:
        """Sentences about how a token is computed."""
        if self.routed_trunk:
            seed = " or the seed" if self.null_experts else ""
            return (
                f"Each token passes through one of {len(self.members)} whole experts{seed}, chosen from the text up to "
                "it; all tokens share one attention."
            )
        return (
            f"A {self.router_kind} router chooses the experts. Each token uses the seed's FFN and "
            f"{self.experts_per_token} of {len(self.members)} routed experts. Their outputs are combined by the "
            f"{self.combine} rule."
        )

    def parts(self) -> Parts:
        """Return the parts of a routed mix. The seed is the last base if it is a choice or an expert builds on it."""
        whole = [member for member in self.members if member.expert.difference is None]
        bases = [Base(member.strength, (member.ffn, member.expert.trunk)) for member in whole]
        number, seed = iter(range(len(whole))), len(whole)
        base_of = [next(number) if m.expert.difference is None else seed for m in self.members]
        base_of += [seed] * self.null_experts
        if seed in base_of:
            bases.append(Base(1.0, (self.shared, self.trunk)))
        added = {choice: member.added() for choice, member in enumerate(self.members)}
        return Parts(bases, base_of, {j: difference for j, difference in added.items() if difference})

    def weights(self) -> set[Digest]:
        """Return the blobs with the tensors of the opened mix."""
        own = [self.shared, self.trunk, self.router, self.difference, *(m.ffn for m in self.members)]
        if self.routed_trunk:
            own += [d for m in self.members for d in (m.expert.trunk, m.difference or m.expert.difference)]
        return {digest for digest in own if digest is not None}

    def blobs(self) -> list[Digest]:
        """Return every blob that the mix needs, except the manifest itself."""
        others = [self.lock, *self.seed.files.values(), self.seed.sample, self.parent]
        for expert in (member.expert for member in self.members):
            others += [expert.sample, expert.chunk_vectors, expert.profile, expert.chat_template]
            others += [expert.difference] if self.routed_trunk else []
        return sorted(self.weights().union(digest for digest in others if digest is not None))


COMPUTED_AT_ONCE = 2**26  # bytes of weights that are computed when a model is opened, not when it runs


@dataclass(frozen=True)
class OpenMix:
    """A mix in memory. `model` is a NexusForCausalLM whose weights are memory-mapped from the blobs.

    `ends` are the tokens that end a text.
    """

    model: Any
    tokenizer: Any
    manifest: Manifest
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True)
class OpenSeed:
    """A seed in memory. `model` is the family's causal LM whose weights are memory-mapped from the blobs."""

    model: Any
    tokenizer: Any
    ends: frozenset[int] = frozenset()


def read_manifest(registry: Registry, digest: Digest) -> Manifest:
    """Read a manifest blob. Raises NotFoundError, IntegrityError, MixFormatError."""
    try:
        return Manifest.model_validate(json.loads(registry.blobs.read_bytes(digest)))
    except (ValueError, ValidationError) as error:
        raise MixFormatError(f"this version cannot read the manifest {digest}: {error}") from error


def find_mix(registry: Registry, ref: str) -> tuple[MixRecord, Manifest]:
    """Find a mix by `name` or `name@version`. Raises NotFoundError, IntegrityError, MixFormatError."""
    record = queries.get_mix(registry, ref)
    return record, read_manifest(registry, record.manifest)


def open_mix(
    registry: Registry,
    manifest: Manifest,
    *,
    dtype: torch.dtype | None = None,
    trainable: bool = False,
    trained: Collection[int] = (),
) -> OpenMix:
    """Map a mix's weights into memory. `dtype` converts them; the default is the one that the device computes
    fast, the seed's or float32.

    Weights that must be converted or computed are so when their layer runs (on_demand.py), or now if they are
    `trainable`, or of the low-rank differences of the `trained` choices. After the blobs are verified, an expert that
    no token reaches is never read from disk. Raises NotFoundError and IntegrityError before any model is built.
    """
    from composer.model.modeling import NexusForCausalLM

    refuse_purged(registry, None, [member.expert.ref for member in manifest.members])
    blobs = registry.blobs
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(blobs.path, manifest.weights()))  # which verifies them
    wanted = dtype or computing_dtype(manifest.seed)
    family = family_of(seed_config(blobs, manifest.seed))
    weights = _routed_weights if manifest.routed_trunk else _merged_weights
    config = nexus_config(blobs, manifest, wanted)
    differences = [f".differences.{choice}." for choice in trained]
    model = _build(
        lambda: NexusForCausalLM(config),
        dict(weights(blobs, manifest, family)),
        wanted,
        keep_float32=("router",),
        is_trained=lambda name: trainable or any(map(name.__contains__, differences)),
    )
    tokenizer = open_tokenizer(blobs, manifest.seed.files)
    return OpenMix(model, tokenizer, manifest, end_tokens(blobs, manifest.seed, tokenizer))


def open_model(registry: Registry, manifest: Manifest, dtype: torch.dtype | None = None) -> Any:
    """Open a mix as `open_mix` does, and return its model."""
    return open_mix(registry, manifest, dtype=dtype).model


def open_seed(registry: Registry, seed: LockedSeed) -> OpenSeed:
    """Map a seed's weights into memory. Raises NotFoundError and IntegrityError before any model is built."""
    model = open_dense(registry, seed, seed.ffn, seed.trunk)
    tokenizer = open_tokenizer(registry.blobs, seed.files)
    return OpenSeed(model, tokenizer, end_tokens(registry.blobs, seed, tokenizer))


def open_dense(
    registry: Registry,
    seed: LockedSeed,
    ffn: Digest,
    trunk: Digest,
    *,
    ffn_width: int | None = None,
    dtype: torch.dtype | None = None,
    trainable: bool = False,
) -> Any:
    """Map a dense model of the seed's family: the seed, or an expert with FFNs of the given width."""
    config = seed_config(registry.blobs, seed)
    if ffn_width is not None:
        config["intermediate_size"] = ffn_width
    weights = _weights(registry.blobs, ffn, trunk)
    return build_dense(config, weights, dtype or computing_dtype(seed), trainable=trainable)


def open_expert(
    registry: Registry, seed: LockedSeed, expert: LockedExpert, *, dtype: torch.dtype | None = None
) -> Any:
    """Open an expert as a dense model. One that is stored as a low-rank difference is added to its seed."""
    config = {**seed_config(registry.blobs, seed), "intermediate_size": expert.ffn_width}
    return build_dense(config, expert_weights(registry.blobs, expert), dtype or computing_dtype(seed))


def computing_dtype(seed: LockedSeed) -> torch.dtype:
    """Return the dtype in which the device computes with the seed and its experts."""
    from composer.tensors.torch_blobs import TORCH_DTYPES

    return resources.compute_dtype(TORCH_DTYPES[seed.dtype])


def seed_weights(blobs: BlobStore, seed: LockedSeed) -> dict[str, Weight]:
    """Return the weights of the seed by canonical name."""
    return _weights(blobs, seed.ffn, seed.trunk)


def expert_weights(blobs: BlobStore, expert: LockedExpert) -> dict[str, Weight]:
    """Return the whole weights of an expert by canonical name."""
    from composer.tensors.weights import Added

    weights = _weights(blobs, expert.ffn, expert.trunk)
    if expert.difference is not None:
        matrices = _map(blobs, expert.difference)
        for name, weight in weights.items():
            a, b = pair_names(name)
            if a in matrices:
                weights[name] = Added(weight, matrices[a], matrices[b])
    return weights


def build_dense(
    config: dict[str, Any], weights: Mapping[str, Weight], dtype: torch.dtype, *, trainable: bool = False
) -> Any:
    """Build a causal LM around the given weights, which have the family's own names."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(config)
    hf_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    make = partial(AutoModelForCausalLM.from_config, hf_config)
    return _build(make, weights, dtype, is_trained=lambda name: trainable)


def seed_config(blobs: BlobStore, seed: LockedSeed) -> dict[str, Any]:
    """Return the seed's config.json without the fields that describe files and not the model's function."""
    return copy.deepcopy(_parsed_config(blobs.read_bytes(seed.files["config.json"])))


@lru_cache(maxsize=8)  # every step of a composition uses the same configuration
def _parsed_config(content: bytes) -> dict[str, Any]:
    config = json.loads(content)
    return {
        k: v
        for k, v in config.items()
        if k not in ("architectures", "transformers_version", "dtype", "torch_dtype")
    }


def open_tokenizer(blobs: BlobStore, files: Mapping[str, Digest]) -> Any:
    """Load the tokenizer from a seed's files."""
    from transformers import AutoTokenizer

    with unpacked(blobs, files) as folder:
        try:
            return AutoTokenizer.from_pretrained(folder)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of the Rust code of tokenizers: no Exception
                raise
            raise MixFormatError(
                f"the seed's tokenizer cannot be read ({printable(str(error), 200)}): publish the seed again with a "
                "tokenizer that transformers can load"
            ) from error


def end_tokens(blobs: BlobStore, seed: LockedSeed, tokenizer: Any) -> frozenset[int]:
    """Return the ids of the tokens that end a text: the tokenizer's, and those of generation_config.json."""
    ids = {tokenizer.eos_token_id}
    if digest := seed.files.get("generation_config.json"):
        try:
            given = json.loads(blobs.read_bytes(digest))["eos_token_id"]
        except (ValueError, LookupError, TypeError, RecursionError):  # absent, or a file that nothing checked
            given = None
        ids.update(given if isinstance(given, list) else [given])
    return frozenset(each for each in ids if type(each) is int)


@contextmanager
def unpacked(blobs: BlobStore, files: Mapping[str, Digest]) -> Iterator[Path]:
    """Write small files into a temporary folder, which exists until the `with` block ends."""
    with tempfile.TemporaryDirectory(prefix="nexusmix-") as folder:
        for name, content in read_files(blobs, files).items():
            Path(folder, name).write_bytes(content)
        yield Path(folder)


def nexus_config(blobs: BlobStore, manifest: Manifest, dtype: torch.dtype) -> NexusConfig:
    """Build the configuration of the mix's NexusForCausalLM."""
    from composer.model.modeling import NexusConfig  # imports much of transformers

    return NexusConfig(
        text_config=seed_config(blobs, manifest.seed),
        experts=[member.expert.ref for member in manifest.members],
        ffn_widths=[member.expert.ffn_width for member in manifest.members],
        router=manifest.router_kind,
        domain_dim=manifest.domain_dim,
        combine=manifest.combine,
        num_experts_per_tok=manifest.top_k,
        load_balance=manifest.load_balance,
        routing_top_p=manifest.top_p,
        null_experts=manifest.null_experts,
        routed_trunk=manifest.routed_trunk,
        **(manifest.parts().config(blobs) if manifest.routed_trunk else {}),
        dtype=dtype,
    )


def _merged_weights(blobs: BlobStore, manifest: Manifest, family: Family) -> Iterator[tuple[str, Weight]]:
    """Yield the weights of a mix with one trunk by name. One with a low-rank difference is computed."""
    from composer.tensors.weights import Added

    pairs = {} if manifest.difference is None else _map(blobs, manifest.difference)

    def whole(name: str, weight: Weight) -> tuple[str, Weight]:
        a, b = pair_names(name.removeprefix(PREFIX))
        return name, Added(weight, pairs[a], pairs[b], rounded=False) if a in pairs else weight

    for name, weight in _weights(blobs, manifest.trunk).items():
        yield whole(PREFIX + name, weight)
    for place, digest in ffn_places(manifest).items():
        for name, weight in _weights(blobs, digest).items():
            yield whole(name_in_mixture(family, place, name), weight)
    for (layer, name), weight in of_layers(_weights(blobs, manifest.router)).items():
        yield router_name(family, layer, name), weight


def _routed_weights(blobs: BlobStore, manifest: Manifest, family: Family) -> Iterator[tuple[str, Weight]]:
    """Yield the weights of a routed mix by name. An expert at strength 1 is mapped; any other is computed."""
    from composer.tensors.weights import Blend, Scaled, Stored

    parts = manifest.parts()
    weights = cache(partial(_weights, blobs))
    seed = weights(manifest.seed.ffn, manifest.seed.trunk)
    for name, blob, stored, strength in parts.weights(blobs, family):
        end = weights(blob)[stored]
        yield name, end if strength == 1 else Blend(seed[stored], end, strength)
    mapped = cache(partial(_map, blobs))
    for name, blob, stored, factor in parts.matrices(blobs, family):
        matrix = mapped(blob)[stored]
        yield name, Stored(matrix) if factor == 1 else Scaled(matrix, factor)
    for name, weight in weights(manifest.router).items():
        yield context_name(name), weight


def ffn_places(manifest: Manifest) -> dict[str, Digest]:
    """Return the FFN blobs by their position in a mixture: `shared`, `experts.0`, …"""
    return {"shared": manifest.shared, **{f"experts.{j}": m.ffn for j, m in enumerate(manifest.members)}}


def _map(blobs: BlobStore, digest: Digest) -> dict[str, torch.Tensor]:
    from composer.tensors.torch_blobs import map_tensors

    return map_tensors(blobs.path(digest))


def _weights(blobs: BlobStore, *digests: Digest) -> dict[str, Weight]:
    from composer.tensors.weights import stored

    return stored({name: tensor for digest in digests for name, tensor in _map(blobs, digest).items()})


def _build(
    make: Callable[[], Any],
    weights: Mapping[str, Weight],
    dtype: torch.dtype,
    *,
    is_trained: Callable[[str], bool],
    keep_float32: tuple[str, ...] = (),
) -> Any:
    """Build a model from the given weights on the chosen device.

    On the CPU, a weight that needs no computing is mapped. The others: see `open_mix`.
    """
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    from composer.model.on_demand import can_compute, compute_on_demand

    device = resources.device()
    resources.set_precision()
    # All weights are given; drawing random ones first would take most of the time of opening a small mix.
    with _BUILDING, init_empty_weights(include_buffers=False), no_init_weights():
        model = make()
    dtypes = {
        name: weight.dtype if any(part in name for part in keep_float32) else dtype
        for name, weight in weights.items()
    }
    computed = {name for name, weight in weights.items() if weight.stored(dtypes[name]) is None}
    moved = computed if device.type == "cpu" else set(weights)
    needed = sum(weights[name].shape.numel() * dtypes[name].itemsize for name in moved)
    on_demand: dict[str, Weight] = {}
    if not _fits(needed, device):
        known = {name for name, _ in model.named_parameters(remove_duplicate=False) if not is_trained(name)}
        on_demand = {n: weights[n] for n in moved if n in known and can_compute(model, n)}
    ready = {
        name: weight.value(dtypes[name]).to(device)
        for name, weight in weights.items()
        if name not in on_demand
    }
    missing, unexpected = _assign(model, ready)
    model.tie_weights()
    tied = getattr(model, "all_tied_weights_keys", {})
    absent = [name for name in missing if name not in tied and name not in on_demand]
    if absent or unexpected:
        raise MixFormatError(
            f"the tensors do not fit the model: missing {absent[:5]}, unexpected {unexpected[:5]} (at most 5 shown)"
        )
    on_demand |= {name: on_demand[source] for name, source in tied.items() if source in on_demand}
    for name, weight in on_demand.items():
        compute_on_demand(model, name, weight, dtypes.get(name, dtype))
    return model.to(device).eval()  # the buffers that are not stored


def _assign(model: Any, values: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """Replace parameters and buffers by name. Returns the names that are missing, and those that are unexpected.

    `load_state_dict` does the same, but it visits every module: ten thousand for fifty adapters.
    """
    from torch import nn

    expected, layers = model.state_dict(), dict(model.named_modules())
    for name in values.keys() & expected.keys():
        owner, _, attribute = name.rpartition(".")
        layer, value = layers[owner], values[name]
        if value.shape != expected[name].shape:
            raise MixFormatError(
                f"the tensor {name} has the shape {list(value.shape)}, the model needs {list(expected[name].shape)}"
            )
        if attribute in layer._parameters:
            value = nn.Parameter(value, requires_grad=layer._parameters[attribute].requires_grad)
        setattr(layer, attribute, value)
    return sorted(expected.keys() - values.keys()), sorted(values.keys() - expected.keys())


def _fits(nbytes: int, device: torch.device) -> bool:
    """Return whether the weights can be computed, or moved to a GPU, when a model is opened."""
    if device.type == "cpu":
        return nbytes <= COMPUTED_AT_ONCE
    return nbytes <= resources.SHARE_ON_DEVICE * resources.available_on(device)
