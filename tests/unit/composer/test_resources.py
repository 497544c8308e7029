"""The choice of the device and the dtype, and its errors."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from composer import resources
from composer.errors import DeviceError
from composer.resources import computing

CUDA = torch.cuda.is_available()
MPS = torch.backends.mps.is_available()


@pytest.mark.skipif(CUDA or MPS, reason="there is a GPU")
def test_without_a_gpu_the_device_is_the_cpu() -> None:
    assert resources.device() == torch.device("cpu")


def test_a_gpu_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resources.device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resources.device().type == "cuda"
    with computing("mps"):
        assert resources.device().type == "mps"
    with computing("cpu"):
        assert resources.device().type == "cpu"


def test_the_environment_chooses_where_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv(resources.DEVICE_VARIABLE, "cpu")
    monkeypatch.setenv(resources.DTYPE_VARIABLE, "bfloat16")
    assert resources.device().type == "cpu"
    assert resources.compute_dtype(torch.float32) == torch.bfloat16
    with computing("cuda", "float32"):
        assert resources.device().type == "cuda"
        assert resources.compute_dtype(torch.bfloat16) == torch.float32


@pytest.mark.parametrize(
    ("built", "remedy"), [(False, "built without CUDA: install .* or use --device cpu"), (True, "nvidia-smi")]
)
def test_a_missing_card_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, built: bool, remedy: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    with computing("cuda"), pytest.raises(DeviceError, match=f"cuda was asked for, but .*{remedy}"):
        resources.device()


@pytest.mark.parametrize("built", [False, True])
def test_missing_mps_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch, built: bool) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: built)
    with computing("mps"), pytest.raises(DeviceError, match=r"mps was asked for, .*Mac.*--device cpu"):
        resources.device()


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("device", "gpu", "auto, cpu, cuda, mps"),
        ("device", "cuda:1", "CUDA_VISIBLE"),
        ("dtype", "int8", "tf32"),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str, expected: str
) -> None:
    with pytest.raises(DeviceError, match=expected), computing(**{kind: name}):
        pass
    monkeypatch.setenv(f"NEXUSMIX_{kind.upper()}", name)
    with pytest.raises(DeviceError, match=expected):
        resources.compute_dtype(torch.float32)


def test_a_command_refuses_an_unknown_device_with_the_code_of_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ui.cli import main

    assert main(["--device", "gpu", "mixes"]) == 2
    assert "expected one of auto, cpu, cuda, mps" in capsys.readouterr().err


def test_the_options_are_passed_on_to_the_processes_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from ui.cli import app

    for variable in (resources.DEVICE_VARIABLE, resources.DTYPE_VARIABLE):
        monkeypatch.setenv(variable, "auto")
    CliRunner().invoke(app, ["--device", "cpu", "--dtype", "float32"])
    assert os.environ[resources.DEVICE_VARIABLE] == "cpu"
    assert os.environ[resources.DTYPE_VARIABLE] == "float32"


def test_half_precision_is_used_where_the_device_is_fast_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, n=native: n)
        half = torch.bfloat16 if native else torch.float32
        assert resources.compute_dtype(torch.bfloat16) == half
        assert resources.training_dtype() == (torch.bfloat16 if native else None)
    assert resources.compute_dtype(torch.float16) == torch.float16
    assert resources.compute_dtype(torch.float64) == torch.float64


def test_training_in_float16_needs_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    with computing("cpu", "float16"), pytest.raises(DeviceError, match="--dtype bfloat16"):
        resources.training_dtype()
    with computing("cpu", "tf32"):
        assert resources.training_dtype() is None
        assert resources.compute_dtype(torch.bfloat16) == torch.float32


def test_the_memory_of_a_gpu_is_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Layer:
        pass

    layers = [Layer() for _ in range(3)]
    monkeypatch.setattr(resources, "available_on", lambda device: 1000 - resources._kept.get(device.type, 0))
    with resources.memory_limit(1):
        assert resources.keep(layers[0], 500, torch.device("cuda"))
        assert not resources.keep(layers[1], 500, torch.device("cuda"))
        assert not resources.keep(layers[2], 500)
        layers.clear()
        assert resources._kept["cuda"] == 0
