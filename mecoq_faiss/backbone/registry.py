"""Backbones of the user's own by name: registered in this process, or offered by an installed package."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from weakref import WeakSet

import torch
from torch import nn

GROUP = "mecoq_faiss.backbones"  # of entry points
BUILT_IN = ("pixels", "features")
Build = Callable[[], nn.Module]

_builds: dict[str, Build] = {}
_built: WeakSet[nn.Module] = WeakSet()


def register_backbone(name: str, build: Build) -> None:
    """Make a network of your own the backbone `name`: `ModelConfig(backbone=name)` works in this process from then on.

    A process that loads a run or a bundle of it (`load_encoder`, `export_index`, ...) registers it as well. For the
    command line, an installed package offers `build` as an entry point of the group `mecoq_faiss.backbones`.

    Args:
        name: any but a built-in one's: torchvision's, `timm:...`, `pixels`, `features`. Registered again, the new
            `build` takes the old one's place.
        build: makes the network, a new one in each call: an `nn.Module` with an int attribute `feature_dim` that maps
            images (b, 3, h, w) float32 in [0, 1], which it normalizes itself, to features (b, feature_dim) float32.
            The weights that it comes with are kept, for `weights` of `default` and `none` alike; those of a run or of
            a weights file are loaded into it.

    Raises:
        ValueError: a built-in name, or nothing that can be called. What `build` makes is checked when a model is made.

    Example:
        >>> from mecoq_faiss import MeCoQ, ModelConfig, register_backbone
        >>> class MeanColor(torch.nn.Module):
        ...     feature_dim = 3
        ...
        ...     def forward(self, images):
        ...         return images.mean(dim=(2, 3))
        >>> register_backbone("mean-color", MeanColor)
        >>> MeCoQ(ModelConfig(backbone="mean-color")).backbone.feature_dim
        3
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"{name!r} is no name of a backbone: give a text such as 'my-net'")
    if is_built_in(name):
        raise ValueError(f"backbone {name!r} is built in: register yours by another name, such as 'my-{name}'")
    if not callable(build):
        raise ValueError(f"backbone {name!r}: build is {type(build).__name__}, give a function that makes the network")
    _builds[name] = build


def registered_names() -> list[str]:
    """The names that are registered or that installed packages offer."""
    return sorted({*_builds, *entry_points(group=GROUP).names})


def is_built_in(name: str) -> bool:
    """Whether the name is one that no other backbone can have."""
    if name in BUILT_IN or name.startswith("timm:"):
        return True
    import torchvision

    return name in torchvision.models.list_models(module=torchvision.models)


def find_build(name: str) -> Build | None:
    """What builds the backbone `name`: as registered, or an installed package's; None for built-in and unknown names.

    Raises ValueError for an entry point that does not load, and where two packages offer different ones.
    """
    if name in _builds or is_built_in(name):
        return _builds.get(name)
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if len(found) > 1:
        raise ValueError(f"backbone {name!r} is offered twice, as {' and '.join(found)}: uninstall one of the packages")
    for value, entry in found.items():
        try:
            return entry.load()
        except Exception as error:
            raise ValueError(
                f"backbone {name!r}, entry point {value}, does not load ({_reason(error)}): mend its package"
            ) from error
    return None


def build_own(name: str, build: Build, image_size: int) -> tuple[nn.Module, int]:
    """The network that `build` makes, in eval mode, and its `feature_dim`, which two black images have confirmed.

    Raises ValueError, in one line, for anything that is no such network.
    """
    try:
        net = build()
    except Exception as error:
        raise ValueError(f"backbone {name!r} cannot be built ({_reason(error)}): mend its build()") from error
    if not isinstance(net, nn.Module):
        raise ValueError(f"backbone {name!r}: build() gave a {type(net).__name__}, return an nn.Module")
    if net in _built:  # two models would train and load the weights of one
        raise ValueError(f"backbone {name!r}: build() gave the same module as before, return a new one in each call")
    dim = getattr(net, "feature_dim", None)
    if type(dim) is not int or dim < 1:
        raise ValueError(f"backbone {name!r} has feature_dim {dim!r}: set it to the width of the features, an int")
    try:
        images = torch.zeros(2, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)  # as they come
        with torch.no_grad():
            features = net.eval()(images)
    except Exception as error:
        raise ValueError(
            f"backbone {name!r} does not take images (2, 3, {image_size}, {image_size}) ({_reason(error)}): "
            "choose another image_size, or mend its forward()"
        ) from error
    shape, dtype = getattr(features, "shape", type(features).__name__), getattr(features, "dtype", None)
    if shape != (2, dim) or dtype != torch.float32:
        seen = f"{tuple(shape)} {dtype}" if isinstance(features, torch.Tensor) else shape
        raise ValueError(
            f"backbone {name!r} gives {seen} for 2 images, with feature_dim {dim}: return (b, feature_dim) float32"
        )
    _built.add(net)
    return net, dim


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:150]
