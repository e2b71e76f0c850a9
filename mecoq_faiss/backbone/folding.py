"""Batch norms folded into the convolutions before them: the same features in fewer passes over memory."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-4  # of the largest feature; folding itself is exact but for rounding, about 1e-6


@torch.no_grad()
def folded(net: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network in eval mode with its batch norms folded; what is not folded shares the network's tensors.

    `images` (b, 3, h, w) float, normalised, show which norm takes which convolution's output, and that the copy gives
    the same features. Where it does not, or there is nothing to fold, the network itself comes back.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        return net
    twin = copy.deepcopy(net, {id(tensor): tensor for tensor in chain(net.parameters(), net.buffers())})
    with torch.backends.cudnn.flags(allow_tf32=False):
        before, pairs = _convolutions_and_norms(twin, images)
        replaced: dict[nn.Module, nn.Module] = {}
        for convolution, norm in pairs:
            replaced[convolution] = fuse_conv_bn_eval(convolution, norm)
            replaced[norm] = _rest(norm)
        for parent in list(twin.modules()):
            for name, child in list(parent.named_children()):
                if child in replaced:
                    setattr(parent, name, replaced[child])
        after = twin(images)
    same = bool((after - before).abs().max() <= TOLERANCE * before.abs().max())
    return twin.eval() if pairs and same else net


def _convolutions_and_norms(net: nn.Module, images: Tensor) -> tuple[Tensor, list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """The features, and the pairs in which a norm takes a convolution's output, each of them called once."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensors are kept: an id is theirs as long as they live
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module, output
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made and _foldable(module):
            pairs.append((made[id(inputs[0])][0], module))

    hooks = [m.register_forward_hook(hook) for m in net.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    features = net(images)
    for handle in hooks:
        handle.remove()
    return features, [(convolution, norm) for convolution, norm in pairs if calls[convolution] == calls[norm] == 1]


def _foldable(norm: nn.BatchNorm2d) -> bool:
    return norm.running_mean is not None and (type(norm) is nn.BatchNorm2d or hasattr(norm, "act"))


def _rest(norm: nn.BatchNorm2d) -> nn.Module:
    """What remains of a folded norm: of timm's, which have one, the activation."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()
