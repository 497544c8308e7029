"""Writing a model folder: pieces of tensors, shards, and a folder that appears whole or not at all."""

import pytest
import torch

from composer.errors import ExportError
from composer.export import rows
from composer.export.folder import new_folder, write_tensors
from composer.weights import map_tensors
from registry.errors import ConflictError


def matrix(height, width, start=0):
    return torch.arange(start, start + height * width, dtype=torch.float32).view(height, width)


def test_a_folder_that_appears_meanwhile_is_not_written_over(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(ConflictError), new_folder(target) as temporary:
        (temporary / "ours").touch()
        target.mkdir()
    assert list(target.iterdir()) == []
    assert list(tmp_path.iterdir()) == [target]


def test_a_dangling_link_has_the_name_already(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConflictError), new_folder(tmp_path / "out"):
        raise AssertionError("the block must not run")


def test_pieces_of_any_size_make_the_same_tensor(monkeypatch):
    a, b = matrix(5, 4), matrix(3, 4, 100)
    tall = rows.Below([rows.Given(a), rows.Given(b), rows.Zeros(2, 4)])
    wide = rows.Beside([rows.Given(tall.rows(0, 10, torch.float32)), rows.Zeros(10, 3)])
    expected = torch.cat([torch.cat([a, b, torch.zeros(2, 4)]), torch.zeros(10, 3)], dim=1)
    for piece in (1, 8, 21, 10_000):
        monkeypatch.setattr(rows, "PIECE", piece)
        parts = list(rows.pieces(wide, torch.float32))
        assert max(part.numel() for part in parts) <= max(piece, 7)
        assert torch.equal(torch.cat(parts), expected)
        assert torch.equal(torch.cat(list(rows.pieces(tall, torch.float32))), expected[:, :4])


def test_written_tensors_come_back_in_the_dtype_of_each(tmp_path):
    tensors = {"b": rows.Given(matrix(2, 3)), "a": rows.Given(torch.tensor([1.5, 2.5]))}
    dtypes = {"a": torch.float32, "b": torch.bfloat16}
    assert write_tensors(tmp_path, tensors, dtypes) == 2 * 4 + 6 * 2
    back = map_tensors(tmp_path / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in back.items()} == dtypes
    assert torch.equal(back["b"].float(), matrix(2, 3))


def test_values_that_float16_cannot_hold_are_refused_by_name(tmp_path):
    tensors = {"big": rows.Given(torch.tensor([1.0, 70_000.0]))}
    with pytest.raises(ExportError, match="big"):
        write_tensors(tmp_path, tensors, {"big": torch.float16})
