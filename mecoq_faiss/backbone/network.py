"""Feature extractors: torchvision and timm networks with their head cut, registered ones, pixels, ready features."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mecoq_faiss.backbone.folding import folded
from mecoq_faiss.backbone.registry import build_own, find_build, registered_names
from mecoq_faiss.backbone.weights import load_weights
from mecoq_faiss.runtime.suggest import did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
ALL_LAYERS = -1
COMPILERS = ("c++", "g++", "clang++", "cl")
# A CPU takes large inferences in parts of about so many pixels, whose activations stay in its caches (32 of 96 px).
CPU_PIXELS = 300_000


class Backbone(nn.Module):
    """Images (b, 3, h, w) float in [0, 1] -> features (b, feature_dim), the top `trainable_layers` layers learning.

    A layer is a module that holds weights, together with the normalisation that follows it. Frozen layers keep
    `requires_grad=False` and their batch-norm stays in eval mode; with every layer frozen the whole network does.

    Attributes:
        micro_batch: images at a time while it learns, see `TrainConfig`; 0 takes all.
        compiled: whether its network, and that of `for_inference`, run through torch.compile.
        probe_size: of a registered network the side of an image by whose features caches know it, for its code may
            change under the same name; 0 for the built-in ones.
    """

    def __init__(
        self,
        net: nn.Module,
        feature_dim: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        trainable_layers: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.feature_dim = net, feature_dim
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.trainable_layers = _freeze(net, trainable_layers)
        self.micro_batch = 0
        self.compiled = False
        self.probe_size = 0
        self.train()

    mean: Tensor
    std: Tensor

    @property
    def frozen(self) -> bool:
        """Whether no layer learns."""
        return self.trainable_layers == 0

    def train(self, mode: bool = True) -> Backbone:
        """Training mode for what learns; frozen layers stay in eval mode."""
        super().train(mode and not self.frozen)
        for module in self.net.modules():
            if isinstance(module, NORMS) and not any(p.requires_grad for p in module.parameters(recurse=False)):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, 3, h, w) float in [0, 1] -> features (b, F)."""
        if torch.compiler.is_compiling() and not torch.is_grad_enabled():
            return self._features(images)  # traced: a graph takes any batch, which parts would fix
        gradient = torch.is_grad_enabled() and not self.frozen
        features, count = self._features, len(images)
        if gradient and self.micro_batch:
            features, count = self._features_again, self.micro_batch
        elif not gradient and not self.training:
            count = inference_part(images)
        with torch.set_grad_enabled(gradient):
            parts = [features(part) for part in images.tensor_split(max(1, -(-len(images) // max(1, count))))]
            return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _features(self, images: Tensor) -> Tensor:
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.net(x).flatten(1)

    def _features_again(self, images: Tensor) -> Tensor:
        """The features; the backward pass computes them a second time instead of keeping every activation."""
        return checkpoint(self._features, images, use_reentrant=False, context_fn=self._once_and_again)

    def _once_and_again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(self.net)

    def for_inference(self, image_size: int) -> Backbone:
        """This backbone in eval mode, batch norms folded into convolutions; it shares all other weights.

        It is compiled where this one is.
        """
        self.eval()
        x = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(self.mean.device)
        net = folded(self.net, (x - self.mean) / self.std)
        if net is self.net:
            return self
        if self.compiled:
            net.compile()  # a copy of a compiled network is not
        twin = copy.copy(self)
        twin._modules = {"net": net}
        return twin

    def compile_net(self) -> None:
        """Run the network through torch.compile from now on; ValueError where there is no C++ compiler."""
        if not (os.environ.get("CXX") or any(map(shutil.which, COMPILERS))):
            raise ValueError("compile=true needs a C++ compiler: install g++ or clang, or leave compile out")
        self.net.compile()
        self.compiled = True


@contextmanager
def _statistics_kept(net: nn.Module) -> Iterator[None]:
    """Norms in training mode work on copies of their running statistics: what is computed again counts once."""
    norms = [module for module in net.modules() if isinstance(module, NORMS) and module.training]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: None if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


def inference_part(images: Tensor) -> int:
    """How many of the images (b, 3, h, w) one inference takes at once: on a CPU what stays in its caches, else all."""
    if images.device.type != "cpu":
        return len(images)
    return max(1, CPU_PIXELS // (images.shape[2] * images.shape[3]))


class PixelBackbone(Backbone):
    """The image itself as its features: (b, 3, h, w) -> (b, 3 * h * w). For tiny images; has no layers."""

    def __init__(self, image_size: int, trainable_layers: int = 0) -> None:
        super().__init__(nn.Identity(), 3 * image_size**2, (0.5,) * 3, (0.5,) * 3, trainable_layers)


class FeatureBackbone(Backbone):
    """For data that are features already: (b, F) -> (b, F)."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__(nn.Identity(), feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Features (b, F), as they are."""
        return images


def _freeze(net: nn.Module, trainable_layers: int) -> int:
    """Leave gradients on in the top `trainable_layers` layers only; returns how many those are."""
    layers: list[list[nn.Module]] = []
    for module in net.modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        if isinstance(module, NORMS) and layers:
            layers[-1].append(module)
        else:
            layers.append([module])
    if trainable_layers != ALL_LAYERS and not 0 <= trainable_layers <= len(layers):
        raise ValueError(f"trainable_layers={trainable_layers}: choose 0 to {len(layers)}, this backbone's layers")
    if trainable_layers == ALL_LAYERS:
        return len(layers)
    net.requires_grad_(False)
    for layer in layers[len(layers) - trainable_layers :]:
        for module in layer:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(True)
    return trainable_layers


def create_backbone(
    name: str,
    weights: str = "default",
    *,
    trainable_layers: int = 0,
    image_size: int = 224,
    feature_dim: int | None = None,
) -> Backbone:
    """Build a backbone by name.

    Args:
        name: a torchvision classifier (`vgg16` gives fc7, 4096-d; `resnet50`, ...), `timm:NAME`, `pixels`, `features`
            (data that are features already), or a registered one (`register_backbone`).
        weights: `default` (the library's pretrained ones, downloaded), `none`, or a .safetensors/.pth file. A
            registered network keeps its own for `default` and `none`.
        trainable_layers: how many layers learn, counted from the top; 0 freezes all, -1 none.
        image_size: the side of the square input, in pixels.
        feature_dim: of `features`, their width.

    Raises:
        ValueError: unknown names, an image size that the network does not take, weights that do not fit or cannot be
            fetched.
        FileNotFoundError: a weights file that is not there.
    """
    if name == "features":
        if not feature_dim:
            raise ValueError("backbone 'features' needs feature_dim, the width of the features")
        return FeatureBackbone(feature_dim)
    if name == "pixels":
        return PixelBackbone(image_size, trainable_layers)
    own = find_build(name)
    if own:
        net, width = build_own(name, own, image_size)
        if weights not in ("default", "none"):
            load_weights(net, Path(weights), ())
        backbone = Backbone(net, width, (0.0,) * 3, (1.0,) * 3, trainable_layers)  # it normalizes images itself
        backbone.probe_size = image_size
        return backbone
    build = _timm_net if name.startswith("timm:") else _torchvision_net
    net, heads, mean, std = build(name.removeprefix("timm:"), pretrained=weights == "default")
    if weights not in ("default", "none"):
        load_weights(net, Path(weights), heads)
    return Backbone(net, _feature_dim(net, name, image_size), mean, std, trainable_layers)


def _feature_dim(net: nn.Module, name: str, image_size: int) -> int:
    """The width of the features, as a first image shows it; what networks say of themselves is not reliable."""
    try:
        with torch.no_grad():
            return net.eval()(torch.zeros(1, 3, image_size, image_size)).flatten(1).shape[1]
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"backbone {name} does not take images of {image_size} px ({reason}): try 224") from error


Parts = tuple[nn.Module, tuple[str, ...], tuple[float, ...], tuple[float, ...]]  # network, what was cut, mean, std


def _torchvision_net(name: str, pretrained: bool) -> Parts:
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        hint = did_you_mean(name, [*names, *registered_names()])
        raise ValueError(
            f"unknown backbone {name!r}: {hint}; timm's are written timm:NAME, and one of your own needs "
            "mecoq_faiss.register_backbone in this process"
        )
    try:
        net = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
    except (OSError, RuntimeError) as error:
        raise ValueError(_no_download(name, error)) from error
    linear = [key for key, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"backbone {name!r} has no linear head to cut: choose another, for example resnet50")
    parent, _, child = linear[-1].rpartition(".")
    setattr(net.get_submodule(parent), child, nn.Identity())
    helpers = tuple(key for key, _ in net.named_children() if key in ("aux1", "aux2", "AuxLogits"))
    for key in helpers:  # inception's and googlenet's, which only serve to train a classifier
        setattr(net, key, None)
    if hasattr(net, "aux_logits"):
        net.aux_logits = False
    return net, (linear[-1], *helpers), IMAGENET_MEAN, IMAGENET_STD


def _timm_net(name: str, pretrained: bool) -> Parts:
    try:
        import timm
    except ImportError as error:
        raise ValueError("timm backbones need timm: pip install 'mecoq-faiss[timm]'") from error
    if not timm.is_model(name):
        raise ValueError(f"unknown timm backbone {name!r}: {did_you_mean(name, timm.list_models())}")
    try:
        net = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError) as error:
        raise ValueError(_no_download(f"timm:{name}", error)) from error
    settings: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    head = settings.get("classifier") or ()
    return net, (head,) if isinstance(head, str) else tuple(head), settings["mean"], settings["std"]


def _no_download(name: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"could not fetch the pretrained weights of {name} ({reason}): pass --weights FILE, or --weights none"
