"""Devices: what is there, and where bfloat16 is taken."""

from __future__ import annotations

import pytest
import torch

from mecoq_faiss.devices import resolve_device, use_bf16


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto") == device


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
