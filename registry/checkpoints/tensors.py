"""Safetensors read as bytes: strict header validation, and checkpoints of one file or many shards.

The safetensors library accepts duplicate keys (the last one wins), `../` in names, NaN and any number of tensors.
Contributions are untrusted, so every header is checked here before any data is read. Nothing is ever unpickled.
"""

from __future__ import annotations

import math
import os
import re
import struct
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from registry.checkpoints.safe_files import list_files, open_regular, parse_json, printable
from registry.errors import InvalidInputError, UnsafeFileError

# Bytes per element of every safetensors dtype whose elements are whole bytes.
DTYPE_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_SHARD_NAME = re.compile(r"model-\d+-of-\d+\.safetensors")
_FOREIGN_CONTENT = {
    b"PK\x03\x04": "a zip archive, as torch.save writes (pickle)",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer without its content (run `git lfs pull`)",
}
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERT = (
    "convert it with transformers: `from_pretrained(folder).save_pretrained(new, safe_serialization=True)`"
)


@dataclass(frozen=True)
class Limits:
    """Limits of a checkpoint: far above any dense model, far below the sizes that exhaust memory."""

    header_bytes: int = 16 * 2**20
    tensors: int = 50_000
    dimensions: int = 8
    name_characters: int = 512
    shards: int = 2_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class TensorInfo:
    """Location of a tensor: bytes [start, end) of the file `path`, with its dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    path: Path

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return self.end - self.start

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: Path, limits: Limits = DEFAULT_LIMITS) -> dict[str, TensorInfo]:
    """Read and validate one safetensors file's header; the data is not read.

    The tensors must cover the file's data exactly, without holes, overlaps, missing or trailing bytes.

    Raises NotFoundError, UnsafeFileError.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(32)
        # Bytes 80 02 may also begin a header length, so what follows the length decides first.
        for magic, meaning in _FOREIGN_CONTENT.items():
            if start.startswith(magic) and start[8:9] != b"{":
                raise UnsafeFileError(f"{path}: expected safetensors, got {meaning}; {CONVERT}")
        if size < 8:
            raise UnsafeFileError(f"{path}: expected safetensors, got a file of {size} bytes")
        (length,) = struct.unpack("<Q", start[:8])
        if length > limits.header_bytes:
            raise UnsafeFileError(
                f"{path}: not safetensors, or hostile: the header claims {length} bytes, "
                f"the limit is {limits.header_bytes}"
            )
        if 8 + length > size:
            raise UnsafeFileError(
                f"{path}: truncated: the header claims {length} bytes, {size - 8} follow its length"
            )
        file.seek(8)
        text = file.read(length)
    if not text.startswith(b"{"):
        raise UnsafeFileError(f"{path}: not safetensors: the header does not begin with '{{'")
    header = parse_json(text, str(path))
    _check_metadata(header.pop("__metadata__", {}), path)
    if len(header) > limits.tensors:
        raise UnsafeFileError(f"{path}: {len(header)} tensors, the limit is {limits.tensors}")
    infos = {name: _tensor_info(name, entry, 8 + length, path, limits) for name, entry in header.items()}
    _check_cover(infos.values(), 8 + length, size, path)
    return infos


def _check_metadata(metadata: object, path: Path) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnsafeFileError(f"{path}: __metadata__ must map strings to strings")


def _tensor_info(name: str, entry: object, data_start: int, path: Path, limits: Limits) -> TensorInfo:
    check_tensor_name(name, path, limits)
    where = f"{path}: tensor {printable(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnsafeFileError(f"{where}: expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise UnsafeFileError(f"{where}: dtype {printable(dtype)} is not one of {', '.join(DTYPE_BYTES)}")
    if not _is_naturals(shape) or not _is_naturals(offsets) or len(offsets) != 2:
        raise UnsafeFileError(f"{where}: shape and data_offsets must be lists of integers from 0 to 2^63 - 1")
    if len(shape) > limits.dimensions:
        raise UnsafeFileError(f"{where}: {len(shape)} dimensions, the limit is {limits.dimensions}")
    expected = math.prod(shape) * DTYPE_BYTES[dtype]
    if expected >= 2**63:
        raise UnsafeFileError(f"{where}: the shape {shape} overflows a 64-bit size")
    begin, end = offsets
    if end - begin != expected:
        raise UnsafeFileError(f"{where}: {dtype} of shape {shape} is {expected} bytes, got {end - begin}")
    return TensorInfo(name, dtype, tuple(shape), data_start + begin, data_start + end, path)


def check_tensor_name(name: str, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Refuse a tensor name that could mislead a reader or leave a folder. Raises UnsafeFileError."""
    reason = None
    if not name:
        reason = "is empty"
    elif len(name) > limits.name_characters:
        reason = f"has {len(name)} characters, the limit is {limits.name_characters}"
    elif ".." in name or "\\" in name or name.startswith("/"):
        reason = "looks like a path outside the folder"
    elif not name.isprintable() and any(
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in name
    ):
        reason = "has control, invisible or bidirectional characters"
    if reason:
        raise UnsafeFileError(f"{path}: the tensor name {printable(name)} {reason}")


def _is_naturals(value: object) -> bool:
    # `type is int`: JSON's true is an int to isinstance.
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_cover(infos: Iterable[TensorInfo], data_start: int, size: int, path: Path) -> None:
    position = data_start
    for info in sorted(infos, key=lambda info: (info.start, info.end)):
        if info.start != position:
            fault = "overlaps the previous one" if info.start < position else "has a hole before it"
            raise UnsafeFileError(f"{path}: tensor {printable(info.name)} {fault}")
        position = info.end
    if position != size:
        fault = f"{position - size} missing" if position > size else f"{size - position} trailing"
        raise UnsafeFileError(f"{path}: {fault} bytes of data; the file is truncated or padded")


def read_checkpoint(folder: Path, limits: Limits = DEFAULT_LIMITS) -> dict[str, TensorInfo]:
    """Return the tensors of a Hugging Face folder, from `model.safetensors` or a shard index; reads headers only.

    Raises NotFoundError (no folder), InvalidInputError (no weights), UnsafeFileError (any fault in the files).
    """
    files = list_files(folder)
    candidates = weight_files(files)
    if INDEX_NAME in candidates:
        return _read_shards(folder, files, limits)
    if len(candidates) > 1:
        raise UnsafeFileError(
            f"{folder}: {len(candidates)} safetensors files and no {INDEX_NAME}; add the index"
        )
    if candidates:
        return read_header(files[candidates[0]], limits)
    pickles = sorted(name for name in files if name.endswith(_PICKLE_SUFFIXES))
    if pickles:
        raise UnsafeFileError(
            f"{folder}: expected safetensors, got {printable(pickles[0])}, which is a pickle by its name "
            f"and is never opened; {CONVERT}"
        )
    raise InvalidInputError(f"{folder}: expected {SINGLE_NAME} or {INDEX_NAME}, found neither")


def weight_files(names: Collection[str]) -> list[str]:
    """Return the weight files to read from the file `names` of a folder or repository.

    The rule is that of transformers: `model.safetensors` has priority over a shard index, and other files are
    ignored. With an index, the result is the index and the shards with the usual names; if there are none, the
    index and every safetensors file.
    """
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    if SINGLE_NAME in weights:
        return [SINGLE_NAME]
    if INDEX_NAME in names:
        shards = [name for name in weights if _SHARD_NAME.fullmatch(name)]
        return [INDEX_NAME, *(shards or weights)]
    return weights


def _read_shards(folder: Path, files: Mapping[str, Path], limits: Limits) -> dict[str, TensorInfo]:
    weight_map = _read_index(files[INDEX_NAME], limits)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if shard not in files]
    if missing:
        raise UnsafeFileError(f"{folder}: the index lists shards that are missing: {', '.join(missing)}")
    infos: dict[str, TensorInfo] = {}
    for shard in shards:
        for name, info in read_header(files[shard], limits).items():
            if name in infos:
                raise UnsafeFileError(
                    f"{folder}: tensor {printable(name)} is in both {infos[name].path.name} and {shard}"
                )
            if weight_map.get(name) != shard:
                raise UnsafeFileError(
                    f"{folder}: tensor {printable(name)} is in {shard}, but the index lists another file"
                )
            infos[name] = info
    absent = sorted(weight_map.keys() - infos.keys())
    if absent:
        raise UnsafeFileError(f"{folder}: no shard contains {printable(absent[0])}, which the index lists")
    return infos


def _read_index(path: Path, limits: Limits) -> dict[str, str]:
    with open_regular(path) as file:
        text = file.read(limits.header_bytes + 1)
    if len(text) > limits.header_bytes:
        raise UnsafeFileError(f"{path}: more than {limits.header_bytes} bytes")
    index = parse_json(text, str(path))
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UnsafeFileError(f"{path}: expected a weight_map of tensor names to file names")
    if len(weight_map) > limits.tensors or len(set(weight_map.values())) > limits.shards:
        raise UnsafeFileError(f"{path}: more than {limits.tensors} tensors or {limits.shards} shards")
    for shard in set(weight_map.values()):
        if PurePosixPath(shard).name != shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise UnsafeFileError(
                f"{path}: the shard {printable(shard)} is not a .safetensors file of the folder"
            )
    return weight_map
