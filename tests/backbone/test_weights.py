"""Weights from files: every form that they come in, and what is refused."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mecoq_faiss.backbone.weights import load_weights


def network(*heads: str) -> nn.Module:
    layers = {"conv": nn.Conv2d(3, 2, 1), "norm": nn.BatchNorm2d(2)} | {name: nn.Linear(2, 5) for name in heads}
    return nn.Sequential(OrderedDict(layers))


@pytest.fixture
def state() -> dict[str, Tensor]:
    """Of a network with its head."""
    torch.manual_seed(0)
    return network("fc").state_dict()


@pytest.mark.parametrize("kind", ["safetensors", "pth", "state_dict", "model", "module", "without head", "no counters"])
def test_every_form_is_loaded(kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    written = dict(state)
    if kind == "module":
        written = {f"module.{name}": tensor for name, tensor in state.items()}
    if kind == "without head":
        written = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    if kind == "no counters":
        written = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(written, path)
    else:
        torch.save({kind: written, "epoch": 3} if kind in ("state_dict", "model") else written, path)
    net = network()
    load_weights(net, path, ("fc",))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name


class Boom:
    def __reduce__(self):
        return (print, ("code of a pickle was run",))


def test_broken_files_are_refused(state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(path: Path, *parts: str) -> None:
        with pytest.raises(ValueError) as error:
            load_weights(network(), path, ("fc",))
        message = str(error.value)
        assert str(path) in message and all(part in message for part in parts) and "\n" not in message

    save_file(state, tmp_path / "whole.safetensors")
    torch.save(state, tmp_path / "whole.pth")
    for name in ("whole.safetensors", "whole.pth"):
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes((tmp_path / name).read_bytes()[:-100])
        refused(cut, "cannot be loaded")
    torch.save({"conv.weight": Boom()}, tmp_path / "code.pth")
    refused(tmp_path / "code.pth", "cannot be loaded", "Weights only")
    assert "code of a pickle" not in capsys.readouterr().out
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "cannot be loaded")
    save_file({"stem.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "another backbone", "lacks", "conv.weight")
    save_file(state | {"conv2.weight": torch.ones(2)}, tmp_path / "deeper.safetensors")
    refused(tmp_path / "deeper.safetensors", "another backbone", "conv2.weight")
    save_file(state | {"conv.weight": torch.ones(2)}, tmp_path / "shape.safetensors")
    refused(tmp_path / "shape.safetensors", "size mismatch")
    torch.save(state | {"conv.weight": state["conv.weight"].long()}, tmp_path / "kind.pth")
    refused(tmp_path / "kind.pth", "conv.weight is torch.int64, not torch.float32")
    torch.save(state | {"conv.weight": 3}, tmp_path / "number.pth")
    refused(tmp_path / "number.pth", "conv.weight is no tensor")
    with pytest.raises(FileNotFoundError, match=r"no weights file .*nowhere\.pth"):
        load_weights(network(), tmp_path / "nowhere.pth", ())
