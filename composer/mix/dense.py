"""Whole weights of an expert that is stored as a low-rank difference, for uses that need them.

W_seed + B A is computed in float32 and rounded once to the seed's dtype, as in PEFT's own `merge_and_unload`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from composer.mix.lock import LockedExpert
from composer.tensors.rows import Rows, Stored, Sum, pieces
from composer.tensors.stream import stored_tensors
from registry.blobs import BlobStore
from registry.checkpoints.canonical import canonical_header
from registry.checkpoints.low_rank import pair_names
from registry.checkpoints.tensors import TensorInfo
from registry.records import Digest


def dense_blobs(blobs: BlobStore, expert: LockedExpert) -> tuple[Digest, Digest]:
    """Return blobs of the expert's whole FFNs and trunk.

    Those of a low-rank expert are written; equal experts give equal blobs. Memory is a few pieces of one tensor.
    """
    if expert.difference is None:
        return expert.ffn, expert.trunk
    matrices = stored_tensors(blobs, expert.difference)
    return _added(blobs, expert.ffn, matrices), _added(blobs, expert.trunk, matrices)


def _added(blobs: BlobStore, digest: Digest, matrices: Mapping[str, TensorInfo]) -> Digest:
    """The blob with B A added to each tensor that has a pair; the same blob if none has."""
    infos = stored_tensors(blobs, digest)
    tensors: dict[str, Rows] = {
        name: Sum(info, *(matrices[n] for n in pair_names(name)))
        if pair_names(name)[0] in matrices
        else Stored(info)
        for name, info in infos.items()
    }
    if not any(isinstance(tensor, Sum) for tensor in tensors.values()):
        return digest
    with blobs.writer(sum(info.nbytes for info in infos.values())) as writer:
        writer.write(canonical_header((name, info.dtype, info.shape) for name, info in infos.items()))
        for name in sorted(infos):
            for piece in pieces(tensors[name], infos[name].dtype):
                writer.write(np.ascontiguousarray(piece).data)
    return writer.digest
