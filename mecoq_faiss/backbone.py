"""Feature extractors: torchvision and timm networks with their head cut, raw pixels, ready features."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
ALL_LAYERS = -1


class Backbone(nn.Module):
    """Images (b, 3, h, w) float in [0, 1] -> features (b, feature_dim), the top `trainable_layers` layers learning.

    A layer is a module that holds weights, together with the normalisation that follows it. Frozen layers keep
    `requires_grad=False` and their batch-norm stays in eval mode; with every layer frozen the whole network does.
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

    mean: Tensor
    std: Tensor

    @property
    def frozen(self) -> bool:
        return self.trainable_layers == 0

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode and not self.frozen)
        for module in self.net.modules():
            if isinstance(module, NORMS) and not any(p.requires_grad for p in module.parameters(recurse=False)):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.net(x).flatten(1)


class PixelBackbone(Backbone):
    """The image itself as its features: (b, 3, h, w) -> (b, 3 * h * w). For tiny images; learns nothing."""

    def __init__(self, image_size: int) -> None:
        super().__init__(nn.Identity(), 3 * image_size**2, mean=(0.5,) * 3, std=(0.5,) * 3)


class FeatureBackbone(Backbone):
    """For data that are features already: (b, F) -> (b, F)."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__(nn.Identity(), feature_dim)


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
        raise ValueError(f"--trainable-layers {trainable_layers}: this backbone has {len(layers)}, choose 0 to that")
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
        name: a torchvision classifier (`vgg16` gives fc7, 4096-d; `resnet50`, ...), `timm:NAME`, `pixels`, or
            `features` (data that are features already, of width `feature_dim`).
        weights: `default` (the library's pretrained ones, downloaded), `none`, or a .safetensors/.pth file.
        trainable_layers: how many layers learn, counted from the top; 0 freezes all, -1 none.
        image_size: the side of the square input, in pixels.

    Raises:
        ValueError: unknown names, weights that do not fit or cannot be fetched.
        FileNotFoundError: a weights file that is not there.
    """
    if name == "features":
        if not feature_dim:
            raise ValueError("backbone 'features' needs feature_dim, the width of the features")
        return FeatureBackbone(feature_dim)
    if name == "pixels":
        return PixelBackbone(image_size)
    build = _timm_net if name.startswith("timm:") else _torchvision_net
    net, dim, mean, std = build(name.removeprefix("timm:"), pretrained=weights == "default")
    if weights not in ("default", "none"):
        _load_weights(net, Path(weights))
    return Backbone(net, dim, mean, std, trainable_layers)


def _torchvision_net(name: str, pretrained: bool) -> tuple[nn.Module, int, tuple[float, ...], tuple[float, ...]]:
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ValueError(f"unknown backbone {name!r}: {_closest(name, names)}; timm's are written timm:NAME")
    try:
        net = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
    except OSError as error:
        raise ValueError(_no_download(name, error)) from error
    heads = [key for key, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not heads:
        raise ValueError(f"backbone {name!r} has no linear head to cut: choose another, for example resnet50")
    parent, _, child = heads[-1].rpartition(".")
    dim = net.get_submodule(heads[-1]).in_features
    setattr(net.get_submodule(parent), child, nn.Identity())
    if hasattr(net, "aux_logits"):  # inception and googlenet answer in tuples while training
        net.aux_logits = False
    return net, int(dim), IMAGENET_MEAN, IMAGENET_STD


def _timm_net(name: str, pretrained: bool) -> tuple[nn.Module, int, tuple[float, ...], tuple[float, ...]]:
    try:
        import timm
    except ImportError as error:
        raise ValueError("timm backbones need timm: pip install 'mecoq-faiss[timm]'") from error
    if not timm.is_model(name):
        raise ValueError(f"unknown timm backbone {name!r}: {_closest(name, timm.list_models())}")
    try:
        net = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError) as error:
        raise ValueError(_no_download(f"timm:{name}", error)) from error
    settings: dict = net.pretrained_cfg  # type: ignore[assignment]
    return net, int(net.num_features), settings["mean"], settings["std"]  # type: ignore[arg-type]


def _closest(name: str, names: list[str]) -> str:
    import difflib

    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"did you mean {', '.join(matches)}?" if matches else f"for example {', '.join(sorted(names)[:3])}"


def _no_download(name: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"could not fetch the pretrained weights of {name} ({reason}): pass --weights FILE, or --weights none"


def _load_weights(net: nn.Module, path: Path) -> None:
    """Load a state dict from a file; the head that was cut and batch counters may be missing or left over."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}: give a .safetensors or .pth file, 'default' or 'none'")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state.get("model", state))
        state = {key.removeprefix("module."): value for key, value in state.items()}
        result = net.load_state_dict(state, strict=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"weights file {path} cannot be loaded into this backbone: {reason}") from error
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"weights file {path} is for another backbone: {len(missing)} tensors are missing, first {missing[0]!r}"
        )
