"""Names of the weight blobs of a mix and of its experts, for documents that prove where a mix came from."""

from __future__ import annotations

from composer.mix.lock import LockedExpert
from composer.mix.opening import Manifest
from registry.records import Digest, ExpertRecord


def weights_of(expert: ExpertRecord | LockedExpert) -> dict[str, Digest]:
    """Return the blobs of an expert's own weights by name."""
    if expert.difference is not None:
        return {"low-rank difference": expert.difference}
    return {"FFNs": expert.ffn, "trunk": expert.trunk}


def own_weights(manifest: Manifest) -> dict[str, Digest]:
    """Return the blobs that only the mix has by name: its router, its trunk, and what it changed of each expert."""
    own = {"router": manifest.router}
    if not manifest.routed_trunk:
        own["trunk"] = manifest.trunk
    if manifest.difference is not None:
        own["low-rank differences, fine-tuned"] = manifest.difference
    for member in manifest.members:
        expert = member.expert
        if member.ffn != expert.ffn:
            how = "fine-tuned" if expert.difference is None else "with its low-rank difference"
            own[f"FFNs of {expert.ref}, {how}"] = member.ffn
        if member.difference is not None:
            own[f"low-rank difference of {expert.ref}, fine-tuned"] = member.difference
    return own
