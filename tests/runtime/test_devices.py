"""Devices: what is there, and where bfloat16 is taken."""

from __future__ import annotations

import inspect

import pytest
import torch

from mecoq_faiss import MeCoQ, ModelConfig, encode, evaluate, export_index, load_encoder, train
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.jobs.compare import compare
from mecoq_faiss.jobs.search import search
from mecoq_faiss.jobs.tune import tune
from mecoq_faiss.runtime.devices import resolve_device, use_bf16


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto") == device


def test_every_public_function_takes_auto_or_a_torch_device() -> None:
    assert resolve_device(torch.device("cpu")) == "cpu"
    with pytest.raises(ValueError, match="device 'cuda:99' is not available"):
        resolve_device(torch.device("cuda", 99))
    for function in (train, encode, export_index, evaluate, compare, tune, load_encoder, search, TorchEncoder.__init__):
        device = inspect.signature(function).parameters["device"]
        assert device.default == "auto" and device.annotation == "str | torch.device", function


def test_an_encoder_on_a_torch_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MeCoQ(ModelConfig(backbone="features", feature_dim=4, D=4, M=2, hidden=8))
    assert TorchEncoder(model, torch.device("cpu")).encode([[1.0, 2, 3, 4]]).shape == (1, 4)
    assert TorchEncoder(model).device == resolve_device("auto")
    with pytest.raises(ValueError, match="not available"):
        TorchEncoder(model, "cuda:99")


@pytest.mark.parametrize("device", ["cuda:99", "no device"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' is not available .*: use --device cpu or auto"):
        resolve_device(device)


@pytest.mark.parametrize("has", [False, True])
def test_bfloat16(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: has)
    for device in ("cpu", "cuda", "cuda:1"):
        assert use_bf16("bf16", device)
        assert not use_bf16("float32", device)
    assert use_bf16("auto", "cuda:1") == has
    assert not use_bf16("auto", "cpu")
