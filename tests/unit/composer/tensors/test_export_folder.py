"""Writing a model folder: pieces of tensors, shards, and a folder that appears complete or not at all."""

import numpy as np
import pytest
import torch

from composer.errors import ExportError
from composer.formats.folder import new_folder, write_tensors
from composer.tensors import rows
from composer.tensors.torch_blobs import map_tensors
from registry.errors import ConflictError


def matrix(height, width, start=0):
    return np.arange(start, start + height * width, dtype=np.float32).reshape(height, width)


def test_a_folder_that_appears_meanwhile_is_not_written_over(registry, tmp_path):
    target = tmp_path / "out"
    with pytest.raises(ConflictError), new_folder(registry, target) as temporary:
        (temporary / "ours").touch()
        target.mkdir()
    assert list(target.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"home", "out"}


def test_a_dangling_link_has_the_name_already(registry, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConflictError), new_folder(registry, tmp_path / "out"):
        raise AssertionError("the block must not run")


def test_pieces_of_any_size_make_the_same_tensor(monkeypatch):
    a, b = matrix(5, 4), matrix(3, 4, 100)
    tall = rows.Below([rows.Given(a), rows.Given(b), rows.Zeros(2, 4)])
    wide = rows.Beside([rows.Given(tall.rows(0, 10, "F32")), rows.Zeros(10, 3)])
    expected = np.pad(np.concatenate([a, b]), ((0, 2), (0, 3)))
    for piece in (1, 8, 21, 10_000):
        monkeypatch.setattr(rows, "PIECE", piece)
        parts = list(rows.pieces(wide, "F32"))
        assert max(part.size for part in parts) <= max(piece, 7)
        assert np.array_equal(np.concatenate(parts), expected)
        assert np.array_equal(np.concatenate(list(rows.pieces(tall, "F32"))), expected[:, :4])


def test_written_tensors_come_back_in_the_dtype_of_each(tmp_path):
    tensors = {"b": rows.Given(matrix(2, 3)), "a": rows.Given(np.array([1.5, 2.5], np.float32))}
    assert write_tensors(tmp_path, tensors, {"a": "F32", "b": "BF16"}) == 2 * 4 + 6 * 2
    back = map_tensors(tmp_path / "model.safetensors")
    assert {name: t.dtype for name, t in back.items()} == {"a": torch.float32, "b": torch.bfloat16}
    assert np.array_equal(back["b"].float().numpy(), matrix(2, 3))


def test_values_that_float16_cannot_represent_are_refused_by_name(tmp_path):
    tensors = {"big": rows.Given(np.array([1.0, 70_000.0], np.float32))}
    with pytest.raises(ExportError, match="big"):
        write_tensors(tmp_path, tensors, {"big": "F16"})
