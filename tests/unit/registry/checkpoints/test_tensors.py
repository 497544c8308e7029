"""Safetensors headers, sharded checkpoints and canonical copies."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest

from registry.checkpoints.canonical import (
    canonical_header,
    canonical_size,
    is_finite,
    write_canonical,
)
from registry.checkpoints.tensors import Limits, read_checkpoint, read_header
from registry.errors import InvalidInputError, NotFoundError, UnsafeFileError


def entry(begin: int, end: int, *, dtype: str = "F32", shape: list[Any] | None = None) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def write(
    path: Path, header: dict[str, Any] | bytes, data: bytes = b"", *, length: int | None = None
) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def refused(path: Path, pattern: str, limits: Limits | None = None) -> None:
    with pytest.raises(UnsafeFileError, match=pattern):
        read_header(path, limits or Limits())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_a_valid_header_gives_absolute_offsets(file: Path) -> None:
    write(file, {"__metadata__": {"format": "pt"}, "b": entry(4, 12), "a": entry(0, 4)}, b"x" * 12)
    infos = read_header(file)
    start = file.stat().st_size - 12
    assert (infos["a"].start, infos["b"].start, infos["b"].end) == (start, start + 4, start + 12)
    assert infos["b"].shape == (2,)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0"])
def test_an_empty_or_too_short_file_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    refused(file, f"a file of {len(content)} bytes")


@pytest.mark.parametrize("length", [1000, 2**64 - 1])
def test_a_header_length_past_the_end_is_refused_before_allocating(file: Path, length: int) -> None:
    refused(write(file, {"a": entry(0, 4)}, b"x" * 4, length=length), "header claims")


@pytest.mark.parametrize(
    ("header", "data", "pattern"),
    [
        ({"a": entry(0, 8)}, 4, "4 missing bytes"),
        ({"a": entry(0, 8)}, 12, "4 trailing bytes"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "has a hole"),
        ({"a": entry(4, 8)}, 8, "has a hole"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "overlaps"),
        ({"a": entry(0, 4), "b": entry(0, 4)}, 4, "overlaps"),
    ],
)
def test_data_that_the_tensors_do_not_cover_exactly_is_refused(
    file: Path, header: dict[str, Any], data: int, pattern: str
) -> None:
    refused(write(file, header, b"x" * data), pattern)


@pytest.mark.parametrize(
    ("bad", "pattern"),
    [
        (entry(0, 4, shape=[2]), "is 8 bytes, got 4"),
        (entry(0, 4, dtype="F16", shape=[1]), "is 2 bytes, got 4"),
        (entry(0, 4, shape=[2**33, 2**33]), "overflows"),
        (entry(0, 4, shape=[2**64]), "must be lists of integers"),
        (entry(0, 4, shape=[-1]), "must be lists of integers"),
        (entry(0, 4, shape=[True]), "must be lists of integers"),
        (entry(4, 0, shape=[1]), "is 4 bytes, got -4"),
        (entry(0, 4, dtype="F31", shape=[1]), "dtype 'F31' is not one of"),
        (entry(0, 4, shape=[1] * 9), "9 dimensions, the limit is 8"),
        ({"dtype": "F32", "shape": [1]}, "expected exactly dtype"),
        ([1, 2], "expected exactly dtype"),
    ],
)
def test_a_shape_dtype_or_size_that_disagree_is_refused(file: Path, bad: Any, pattern: str) -> None:
    refused(write(file, {"a": bad}, b"x" * 4), pattern)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"x":"1","x":"2"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_duplicate_keys_at_any_level_are_refused(file: Path, header: bytes) -> None:
    refused(write(file, header, b"x" * 4), "occurs twice")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a\nb",
        "a\x00",
        "a\u202eb",
        "a\u200bb",
        "../a",
        "a..b",
        "/etc/passwd",
        "C:\\a",
        "a" * 513,
        "\ud800",
    ],
)
def test_names_that_mislead_are_refused_and_shown_escaped(file: Path, name: str) -> None:
    write(file, {name: entry(0, 4)}, b"x" * 4)
    with pytest.raises(UnsafeFileError, match="the tensor name") as caught:
        read_header(file)
    assert str(caught.value).isascii() or "…" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_tensors_or_header_bytes_than_the_limit_are_refused(file: Path) -> None:
    write(file, {"a": entry(0, 4), "b": entry(4, 8)}, b"x" * 8)
    refused(file, "2 tensors, the limit is 1", Limits(tensors=1))
    refused(file, "the limit is 10", Limits(header_bytes=10))


@pytest.mark.parametrize(
    "header", [b"not json at all", b"[1]", b"{" + b'"a":[' * 5000, b'{"a": NaN}', b'{"\xff":1}']
)
def test_a_header_that_is_no_json_object_is_refused(file: Path, header: bytes) -> None:
    refused(write(file, header), "JSON|does not begin")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_renamed_safetensors_is_refused_by_content_with_the_remedy(
    file: Path, protocol: int
) -> None:
    file.write_bytes(pickle.dumps({"weights": list(range(1000))}, protocol=protocol))
    refused(file, "a pickle; convert it")


def test_a_header_of_640_bytes_is_not_taken_for_a_pickle(file: Path) -> None:
    text = json.dumps({"a": entry(0, 4)}).encode()
    write(file, text + b" " * (640 - len(text)), b"x" * 4)
    assert file.read_bytes()[:2] == b"\x80\x02"
    assert list(read_header(file)) == ["a"]


def test_a_folder_with_only_pickles_is_refused_without_opening_them(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04never opened")
    with pytest.raises(UnsafeFileError, match=r"pytorch_model\.bin.*never opened; convert"):
        read_checkpoint(tmp_path)


def test_pickles_next_to_safetensors_are_ignored(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"a": entry(0, 4)}, b"x" * 4)
    (tmp_path / "training_args.bin").write_bytes(b"\x80\x04")
    assert list(read_checkpoint(tmp_path)) == ["a"]


def test_shards_are_read_as_one_checkpoint(tmp_path: Path, pico_seed: Path) -> None:
    sharded = read_checkpoint(pico.write_pico(tmp_path / "sharded", shards=3))
    whole = read_checkpoint(pico_seed)
    assert {name: info.shape for name, info in sharded.items()} == {
        name: info.shape for name, info in whole.items()
    }
    assert len({info.path for info in sharded.values()}) == 3


@pytest.mark.parametrize(
    ("weight_map", "pattern"),
    [
        ({"a": "/tmp/x.safetensors"}, "not a .safetensors file of the folder"),
        ({"a": "../x.safetensors"}, "not a .safetensors file of the folder"),
        ({"a": "sub\\x.safetensors"}, "not a .safetensors file of the folder"),
        ({"a": "x.bin"}, "not a .safetensors file of the folder"),
        ({"a": "one.safetensors", "b": "missing.safetensors"}, "shards that are missing"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "no shard contains 'b'"),
        (
            {"a": "two.safetensors", "b": "one.safetensors"},
            "is in one.safetensors, but the index lists another file",
        ),
        (
            {"a": "copy.safetensors", "c": "copy.safetensors", "x": "one.safetensors"},
            "is in both copy.safetensors and one.safetensors",
        ),
        ({"a": 1}, "expected a weight_map"),
        ([], "expected a weight_map"),
    ],
)
def test_a_shard_index_with_wrong_entries_is_refused(tmp_path: Path, weight_map: Any, pattern: str) -> None:
    write(tmp_path / "one.safetensors", {"a": entry(0, 4)}, b"x" * 4)
    write(tmp_path / "two.safetensors", {"b": entry(0, 4)}, b"x" * 4)
    write(tmp_path / "copy.safetensors", {"c": entry(0, 4), "a": entry(4, 8)}, b"x" * 8)
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeFileError, match=pattern):
        read_checkpoint(tmp_path)


def test_a_symlink_or_fifo_in_the_folder_is_refused(tmp_path: Path, pico_seed: Path) -> None:
    linked, piped = tmp_path / "linked", tmp_path / "piped"
    linked.mkdir()
    (linked / "model.safetensors").symlink_to(pico_seed / "model.safetensors")
    with pytest.raises(UnsafeFileError, match="is a symlink"):
        read_checkpoint(linked)
    piped.mkdir()
    os.mkfifo(piped / "model.safetensors")
    with pytest.raises(UnsafeFileError, match="device, FIFO or socket"):
        read_checkpoint(piped)
    refused(piped / "model.safetensors", "regular file")


def test_the_links_of_a_hugging_face_cache_are_followed_inside_their_repository_only(
    tmp_path: Path, pico_seed: Path
) -> None:
    repository = tmp_path / "models--someone--model"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob = repository / "blobs" / "0123"
    blob.write_bytes((pico_seed / "model.safetensors").read_bytes())
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert len(read_checkpoint(snapshot)) == 21
    (snapshot / "config.json").symlink_to(pico_seed / "config.json")
    with pytest.raises(UnsafeFileError, match=r"'config\.json' is a symlink"):
        read_checkpoint(snapshot)


def test_a_missing_folder_and_a_folder_without_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        read_checkpoint(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="found neither"):
        read_checkpoint(tmp_path)


def test_the_canonical_copy_is_read_by_the_safetensors_library(pico_seed: Path) -> None:
    from safetensors.numpy import load, load_file

    buffer = io.BytesIO()
    infos = read_checkpoint(pico_seed)
    write_canonical(buffer, infos)
    copied, original = load(buffer.getvalue()), load_file(pico_seed / "model.safetensors")
    assert copied.keys() == original.keys()
    assert all(np.array_equal(copied[name], original[name]) for name in original)
    assert len(buffer.getvalue()) == canonical_size(infos)


def test_equal_tensors_give_equal_bytes_however_they_are_sharded(tmp_path: Path, pico_seed: Path) -> None:
    digests = set()
    for folder in (pico_seed, pico.write_pico(tmp_path / "sharded", shards=3)):
        buffer = io.BytesIO()
        write_canonical(buffer, read_checkpoint(folder))
        digests.add(hashlib.sha256(buffer.getvalue()).hexdigest())
    assert len(digests) == 1


def test_a_canonical_header_is_sorted_packed_and_aligned() -> None:
    header = canonical_header([("b", "F16", (2, 3)), ("a", "F32", ())])
    (length,) = struct.unpack("<Q", header[:8])
    assert len(header) == 8 + length and length % 8 == 0
    assert json.loads(header[8:]) == {
        "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "b": {"dtype": "F16", "shape": [2, 3], "data_offsets": [4, 16]},
    }


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_nan_and_infinity_are_refused_by_the_tensors_name(tmp_path: Path, dtype: str, value: str) -> None:
    import torch
    from safetensors.torch import save_file

    torch_dtype = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}[dtype]
    good = torch.linspace(-60000, 60000, 1000).to(getattr(torch, torch_dtype))
    bad = good.clone()
    bad[777] = float(value)
    save_file({"good": good, "worse": bad}, tmp_path / "model.safetensors")
    infos = read_checkpoint(tmp_path)
    write_canonical(io.BytesIO(), {"good": infos["good"]})
    with pytest.raises(UnsafeFileError, match="tensor 'worse' contains NaN or infinity"):
        write_canonical(io.BytesIO(), infos)


def test_the_largest_finite_numbers_and_subnormals_are_finite() -> None:
    for dtype, numbers in (("F16", np.finfo(np.float16)), ("F32", np.finfo(np.float32))):
        values = np.array([numbers.max, numbers.min, numbers.smallest_subnormal, 0.0], dtype=numbers.dtype)
        assert is_finite(values.tobytes(), dtype)
    assert is_finite(b"", "F32")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"a": entry(0, 4096)}, b"x" * 4096)
    infos = read_header(path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(UnsafeFileError, match="the file ended inside tensor 'a'"):
        write_canonical(io.BytesIO(), infos)


def test_progress_counts_every_byte(pico_seed: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    infos = read_checkpoint(pico_seed)
    write_canonical(io.BytesIO(), infos, stage="ffn", progress=lambda *step: seen.append(step))
    total = sum(info.nbytes for info in infos.values())
    assert seen[-1] == ("ffn", total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
