"""Backbones: torchvision's and timm's own networks cut by hand, what learns and what does not, weights from files."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
import torchvision.transforms.v2.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from mecoq_faiss.backbone.network import COMPILERS, IMAGENET_MEAN, IMAGENET_STD, Backbone, create_backbone

SMALL = "shufflenet_v2_x0_5"
TIMM_WEIGHTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "mobilenetv1_100-imagenet.safetensors"


def learning(backbone: Backbone) -> set[str]:
    return {name for name, parameter in backbone.net.named_parameters() if parameter.requires_grad}


def on_meta(name: str, **options) -> nn.Module:
    """A network without numbers: all of its shapes, at no cost."""
    with torch.device("meta"):
        return create_backbone(name, "none", **options)


def randomize_norms(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    """The state dict of a small torchvision network, its head included."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(SMALL, weights=None)
    randomize_norms(net)
    return net.state_dict()


def hand_cut(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    net = torchvision.models.get_model(SMALL, weights=None)
    net.load_state_dict(state)
    net.fc = nn.Identity()
    with torch.no_grad():
        return net.eval()(F.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD)))


# Cutting


def test_vgg16_is_cut_after_fc7():
    torch.manual_seed(0)
    backbone = create_backbone("vgg16", "none", trainable_layers=2, image_size=32).eval()
    with torch.device("meta"):
        reference = torchvision.models.vgg16()
    reference.classifier = reference.classifier[:6]  # fc6, ReLU, dropout, fc7, ReLU, dropout
    reference.load_state_dict(backbone.net.state_dict(), assign=True)
    images = torch.rand(2, 3, 32, 32)
    features = backbone(images)
    assert features.shape == (2, backbone.feature_dim) == (2, 4096)
    expected = reference.eval()(F.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD)))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-6)
    fc6_fc7 = {f"classifier.{i}.{kind}" for i in (0, 3) for kind in ("weight", "bias")}
    assert learning(backbone) == fc6_fc7


@pytest.mark.parametrize(
    ("name", "feature_dim"),
    [
        ("resnet18", 512),
        ("resnet50", 2048),
        ("mobilenet_v3_small", 1024),
        ("vit_b_16", 768),
        ("convnext_tiny", 768),
        ("densenet121", 1024),
    ],
)
def test_feature_widths(name, feature_dim):
    backbone = on_meta(name)
    features = backbone(torch.rand(3, 3, 224, 224, device="meta"))
    assert features.shape == (3, backbone.feature_dim) == (3, feature_dim)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(("name", "size", "feature_dim"), [("inception_v3", 299, 2048), ("googlenet", 224, 1024)])
def test_auxiliary_heads_are_gone(name, size, feature_dim):
    backbone = on_meta(name, image_size=size, trainable_layers=2).train()
    features = backbone(torch.rand(2, 3, size, size, device="meta"))  # not the named tuple of training
    assert features.shape == (2, backbone.feature_dim) == (2, feature_dim)
    top = "Mixed_7c" if name == "inception_v3" else "inception5b"
    assert {parameter.partition(".")[0] for parameter in learning(backbone)} == {top}


def test_normalization_and_eval(small_state, tmp_path):
    save_file(small_state, tmp_path / "weights.safetensors")
    backbone = create_backbone(SMALL, str(tmp_path / "weights.safetensors"), image_size=64)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(backbone(images), hand_cut(small_state, images), rtol=1e-4, atol=1e-5)


def test_large_batches_in_parts(monkeypatch):
    backbone = create_backbone(SMALL, "none", image_size=32)
    images = torch.rand(7, 3, 32, 32)
    whole = backbone(images)
    calls = []
    backbone.net.register_forward_pre_hook(lambda net, inputs: calls.append(len(inputs[0])))
    monkeypatch.setattr("mecoq_faiss.backbone.network.CPU_PIXELS", 3 * 32 * 32)
    torch.testing.assert_close(backbone(images), whole, atol=1e-5, rtol=1e-4)
    assert calls == [3, 2, 2]
    assert backbone(images[:0]).shape == whole[:0].shape
    learner = create_backbone(SMALL, "none", image_size=32, trainable_layers=-1).train()
    learner.net.register_forward_pre_hook(lambda net, inputs: calls.append(len(inputs[0])))
    learner(images)
    assert calls[-1] == 7  # batch-norm that learns sees the whole batch


def test_micro_batches_give_the_gradients_of_the_whole_batch():
    def gradients(micro_batch: int) -> tuple[list[torch.Tensor], list[int]]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
        backbone = Backbone(net, 5, trainable_layers=-1)
        backbone.micro_batch = micro_batch
        calls: list[int] = []
        net.register_forward_pre_hook(lambda net, inputs: calls.append(len(inputs[0])))
        images = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        features = backbone(images)
        (features @ features.T).logsumexp(dim=1).sum().backward()  # every image against all, as in the loss
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        assert len(gradients) == len(list(net.parameters()))
        return gradients, calls

    whole, once = gradients(micro_batch=0)
    parts, twice = gradients(micro_batch=3)
    assert once == [7] and twice[:3] == [3, 2, 2] and sorted(twice[3:]) == [2, 2, 3]  # backward computes them again
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        frozen = create_backbone(SMALL, "none", image_size=32)
        frozen.micro_batch = 2
        assert frozen(torch.rand(5, 3, 32, 32)).shape[0] == 5


@pytest.mark.parametrize("momentum", [0.1, None])  # None: the mean of all that was seen
def test_micro_batches_count_once_in_the_running_statistics(momentum):
    """Although the backward pass computes each a second time."""

    def learner(norm: nn.Module) -> Backbone:
        torch.manual_seed(0)
        return Backbone(nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten()), 288, trainable_layers=-1)

    images = torch.rand(7, 3, 8, 8)
    backbone = learner(norm := nn.BatchNorm2d(8, momentum=momentum)).train()
    backbone.micro_batch = 3
    backbone(images).square().sum().backward()
    learner(once := nn.BatchNorm2d(8, momentum=momentum)).train()
    for part in images.split([3, 2, 2]):
        with torch.no_grad():
            once(backbone.net[0]((part - backbone.mean) / backbone.std))
    assert norm.num_batches_tracked == once.num_batches_tracked == 3
    torch.testing.assert_close(norm.running_mean, once.running_mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(norm.running_var, once.running_var, rtol=1e-6, atol=1e-7)
    assert norm.running_mean is dict(norm.named_buffers())["running_mean"] and norm.weight.grad is not None


def test_compile_needs_a_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=r"compile=true needs a C\+\+ compiler"):
        create_backbone("pixels", image_size=8).compile_net()


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4)])  # the first is folded in a copy
def test_what_is_compiled_is_what_runs(norm, monkeypatch):
    def compile(call, *more, **options):
        return lambda images: ran.append(len(images)) or call(images)

    ran: list[int] = []
    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setenv("CXX", "any")
    backbone = Backbone(nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(144, 5)), 5)
    expected = backbone(images := torch.rand(2, 3, 8, 8))
    backbone.compile_net()
    ready = backbone.for_inference(8)
    assert (ready is backbone) == isinstance(norm, nn.GroupNorm)
    ran.clear()
    torch.testing.assert_close(ready(images), expected, rtol=1e-4, atol=1e-5)
    assert ran == [2]


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_gives_the_same_features():
    torch.manual_seed(0)
    backbone = create_backbone(SMALL, "none", image_size=32)
    names = list(backbone.state_dict())
    images = torch.rand(4, 3, 32, 32)
    expected = backbone(images)
    backbone.compile_net()
    torch.testing.assert_close(backbone(images), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(backbone.for_inference(32)(images), expected, rtol=1e-3, atol=1e-5)
    assert list(backbone.state_dict()) == names


def test_pixels():
    backbone = create_backbone("pixels", image_size=8)
    images = torch.rand(2, 3, 8, 8)
    assert backbone.feature_dim == 192
    torch.testing.assert_close(backbone(images), (2 * images - 1).flatten(1))
    with pytest.raises(ValueError, match="trainable_layers=1"):
        create_backbone("pixels", image_size=8, trainable_layers=1)


def test_features():
    x = torch.rand(2, 5)
    assert torch.equal(create_backbone("features", feature_dim=5)(x), x)
    with pytest.raises(ValueError, match="feature_dim"):
        create_backbone("features")


# Learning and frozen layers


def test_a_frozen_backbone_stays_as_it_is():
    backbone = create_backbone("resnet18", "none", image_size=32)
    randomize_norms(backbone.net)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    images = torch.rand(4, 3, 32, 32)
    first = backbone(images)  # right after the constructor, as after train()
    assert torch.equal(backbone.train()(images), first) and torch.equal(backbone.eval()(images), first)
    assert backbone.frozen and not first.requires_grad and not learning(backbone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_the_top_layers_learn_and_no_other():
    backbone = create_backbone("resnet18", "none", trainable_layers=2, image_size=32)
    top = {f"layer4.1.{part}" for part in ("conv1.weight", "bn1.weight", "bn1.bias")}
    top |= {f"layer4.1.{part}" for part in ("conv2.weight", "bn2.weight", "bn2.bias")}
    assert learning(backbone) == top and not backbone.frozen
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.train()(torch.rand(4, 3, 32, 32)).square().sum().backward()
    with_gradient = {n for n, p in backbone.net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert with_gradient == top
    changed = {n for n, tensor in backbone.net.state_dict().items() if not torch.equal(tensor, before[f"net.{n}"])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")  # of the layers that learn only
    assert changed == {f"layer4.1.{norm}.{part}" for norm in ("bn1", "bn2") for part in statistics}


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "vit_b_16"])
def test_all_layers_learn(name):
    backbone = on_meta(name, trainable_layers=-1)
    assert learning(backbone) == {name for name, _ in backbone.net.named_parameters()}
    layers = backbone.trainable_layers
    assert learning(on_meta(name, trainable_layers=layers)) == learning(backbone)
    with pytest.raises(ValueError, match=f"trainable_layers={layers + 1}: choose 0 to {layers}"):
        on_meta(name, trainable_layers=layers + 1)


def test_each_further_layer_adds_its_weights():
    sizes = [len(learning(on_meta("vgg16", trainable_layers=n))) for n in range(5)]
    assert sizes == [0, 2, 4, 6, 8]


# Errors


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet5", "resnet50"), ("vgg_16", "vgg16"), ("qqqq", "choose one of alexnet"), ("", "choose")]
)
def test_unknown_names_have_suggestions(name, hint):
    with pytest.raises(ValueError, match=hint) as error:
        create_backbone(name, "none")
    assert "timm:NAME" in str(error.value)


def test_a_network_without_a_linear_head():
    with pytest.raises(ValueError, match=r"squeezenet1_1.*no linear head"):
        on_meta("squeezenet1_1")


def test_an_image_size_that_the_network_does_not_take():
    with pytest.raises(ValueError, match="vit_b_16 does not take images of 96 px"):
        on_meta("vit_b_16", image_size=96)


def test_pretrained_weights_out_of_reach(monkeypatch):
    def offline(*args, **options):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(ValueError, match=r"could not fetch .* of resnet50 .*--weights FILE, or --weights none"):
        create_backbone("resnet50")


# timm


def test_timm_names():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"unknown timm backbone 'mobilenetv1_10': .*mobilenetv1_100"):
        create_backbone("timm:mobilenetv1_10", "none")


def test_timm_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"^timm backbones need timm: pip install 'mecoq-faiss\[timm\]'$"):
        create_backbone("timm:resnet18", "none")


def test_timm_width_is_that_of_what_comes_out():
    pytest.importorskip("timm")
    backbone = on_meta("timm:mobilenetv3_small_050", image_size=64)  # its num_features says 288
    assert backbone(torch.rand(2, 3, 64, 64, device="meta")).shape == (2, backbone.feature_dim) == (2, 1024)


def test_timm_out_of_reach(monkeypatch):
    timm = pytest.importorskip("timm")

    def offline(*args, **options):
        raise OSError("offline\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"could not fetch .* of timm:resnet18 \(offline\)"):
        create_backbone("timm:resnet18")


def test_timm_weights_file():
    timm = pytest.importorskip("timm")
    if not TIMM_WEIGHTS.exists():
        pytest.skip(f"needs {TIMM_WEIGHTS.name} in ../shared/data")
    backbone = create_backbone("timm:mobilenetv1_100", str(TIMM_WEIGHTS), image_size=64)
    reference = timm.create_model("mobilenetv1_100", pretrained=False).eval()
    reference.load_state_dict(load_file(TIMM_WEIGHTS), strict=False)  # the file has no classifier
    settings = reference.pretrained_cfg
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = reference.forward_features(F.normalize(images, settings["mean"], settings["std"]))
    torch.testing.assert_close(backbone(images), maps.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)
    assert backbone.feature_dim == 1024
