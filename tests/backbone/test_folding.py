"""Folded networks: the same features, nothing of the network itself changed, and no fold where it would be wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mecoq_faiss.backbone.folding import folded
from mecoq_faiss.backbone.network import create_backbone
from mecoq_faiss.bundle.embedding import model_fingerprint
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.config import ModelConfig
from mecoq_faiss.data.views import to_float
from mecoq_faiss.model import MeCoQ

NETS = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121", "timm:mobilenetv1_100", "timm:repvgg_a0"]
PROBE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def with_statistics(net: nn.Module) -> nn.Module:
    """In eval mode, as if trained: no norm is the identity."""
    torch.manual_seed(0)
    for norm in norms(net):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    return net.eval()


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_the_features_stay_and_the_network_too(name: str) -> None:
    backbone = create_backbone(name, "none", image_size=64)
    with_statistics(backbone.net)
    state = copy.deepcopy(backbone.state_dict())
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = backbone(images)
    faster = backbone.for_inference(64)
    assert len(norms(faster)) < len(norms(backbone)) / 1.5
    scale = expected.abs().max().item()
    torch.testing.assert_close(faster(images), expected, atol=1e-5 * scale, rtol=1e-4)
    assert all(torch.equal(tensor, state[key]) for key, tensor in backbone.state_dict().items())
    assert torch.equal(backbone(images), expected)


def test_what_is_not_folded_is_shared() -> None:
    net = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4096, 2)))
    twin = folded(net, PROBE)
    assert isinstance(twin, nn.Sequential) and isinstance(net, nn.Sequential)
    ours, theirs = twin.state_dict(), net.state_dict()
    assert ours["3.weight"].data_ptr() == theirs["3.weight"].data_ptr()
    assert ours["0.weight"].data_ptr() != theirs["0.weight"].data_ptr()
    assert all(parameter.requires_grad for parameter in net.parameters()), "what learns still learns"


class Branch(nn.Module):
    """A convolution whose output goes on past its norm as well."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        return x + self.norm(x)


class Twice(nn.Module):
    """A convolution that is used twice, with a norm each."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.one, self.two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.convolution(self.one(self.convolution(x))))


def norm_first() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))


def of_the_batch() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))


def no_norms() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


@pytest.mark.parametrize("make", [Branch, Twice, norm_first, of_the_batch, no_norms])
def test_where_a_fold_would_be_wrong_the_network_itself_comes_back(make: Callable[[], nn.Module]) -> None:
    net = make()
    if make is not of_the_batch:
        with_statistics(net)
    assert folded(net.eval(), PROBE) is net


def test_an_encoder_gives_the_models_embeddings_and_keeps_the_model() -> None:
    model = MeCoQ(ModelConfig(backbone="mobilenet_v3_small", weights="none", image_size=64, D=32, M=2)).eval()
    with_statistics(model.backbone.net)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        z = model.embed(to_float(torch.from_numpy(images).permute(0, 3, 1, 2)))
        expected = model.quantizer.segments(z).flatten(1).numpy()
    state = set(model.state_dict())
    encoder = TorchEncoder(model)
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-5)
    assert set(encoder.model.state_dict()) == state
    assert model_fingerprint(encoder) == model_fingerprint(TorchEncoder(model))
