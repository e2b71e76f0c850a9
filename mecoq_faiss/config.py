"""Settings: frozen, validated dataclasses."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from dataclasses import dataclass
from typing import Any

from mecoq_faiss.runtime.suggest import did_you_mean

DEFAULT_BATCH = 512
CODES = ("product", "additive")
METRICS = ("aqs", "cosine", "ip", "l2")
MOST_WEIGHTS = 1 << 31  # in one layer of the projection
K_MAP, K_RESULTS = 1000, 10  # cut-off of MAP, and results of a search, where none is given; or a smaller whole database


@dataclass(frozen=True)
class ModelConfig:
    """What the model is.

    Attributes:
        backbone: torchvision classifier, `timm:NAME`, `pixels`, `features`, or a registered one (`register_backbone`).
        weights: `default`, `none`, or a .safetensors/.pth file.
        trainable_layers: backbone layers that learn, from the top; 0 freezes all, -1 none.
        image_size: side of the square input in pixels.
        feature_dim: width of the data where `backbone` is `features`.
        standardize: give the projection features of zero mean and unit variance (measured once, before training).
        projection: `linear` (the paper's) or `mlp` (one hidden layer of width `hidden`).
        D: embedding dimension, a multiple of M.
        M: sub-quantizers; a code takes M * nbits bits.
        nbits: bits a sub-quantizer, 8 or 4; K = 2**nbits codewords.
        codes: `product` (the paper's: a codeword a segment), or `additive` (the sum of M codewords of width D).
        metric: `aqs` (the paper's similarity of a learned embedding), or what the codes of given features preserve:
            `cosine`, `ip` (inner product) or `l2`, which takes additive codes.
        alpha: sharpness of the soft assignment (Eq. 3); the paper's is 10.
        freeze_codebooks: leave the codebooks at their random start (what the paper's public release does).

    Example:
        >>> from mecoq_faiss import ModelConfig
        >>> config = ModelConfig(backbone="timm:mobilenetv1_100", image_size=96, M=8, nbits=4)
        >>> config.bits, config.K
        (32, 16)
    """

    backbone: str = "resnet50"
    weights: str = "default"
    trainable_layers: int = 0
    image_size: int = 224
    feature_dim: int | None = None
    standardize: bool = True
    projection: str = "mlp"
    hidden: int = 1024
    D: int = 64
    M: int = 4
    nbits: int = 8
    codes: str = "product"
    metric: str = "aqs"
    alpha: float = 5.0
    freeze_codebooks: bool = False

    @property
    def K(self) -> int:
        """Codewords a codebook, 2**nbits."""
        return 2**self.nbits

    @property
    def bits(self) -> int:
        """Bits a code, M * nbits."""
        return self.M * self.nbits

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 1, "image_size", "hidden", "M", "D")
        if self.feature_dim is not None:
            _at_least(self, 1, "feature_dim")
            _at_most(self, 1 << 24, "feature_dim")
        _at_most(self, 1 << 13, "image_size")
        _at_most(self, 1 << 20, "hidden", "M", "D")
        if self.nbits not in (4, 8):
            raise ValueError(f"nbits={self.nbits}: choose 8 (IndexPQ, IVFPQ) or 4 (FastScan)")
        if self.bits % 8:
            raise ValueError(f"M={self.M} with nbits={self.nbits}: a code takes whole bytes, choose an even M")
        _at_least(self, -1, "trainable_layers")
        if self.D % self.M:
            nearest = max(1, round(self.D / self.M)) * self.M
            raise ValueError(f"D={self.D} is not divisible by M={self.M}: choose a multiple, for example {nearest}")
        _one_of(self, "codes", CODES)
        _one_of(self, "metric", METRICS)
        if self.metric != "aqs" and self.codes != "additive":
            raise ValueError(f"metric={self.metric} is preserved by additive codes only: set codes=additive")
        _one_of(self, "projection", ("linear", "mlp"))
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha} must be positive")
        inputs, widest = max(self.D, self.feature_dim or 1), self.D if self.projection == "linear" else self.hidden
        if inputs * widest > MOST_WEIGHTS:
            raise ValueError(
                f"hidden={self.hidden}, D={self.D}, feature_dim={self.feature_dim}: a layer of more than "
                f"{MOST_WEIGHTS:,} weights; choose smaller ones"
            )


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained. Epochs count from 1; learning rates are Adam's or SGD's.

    Attributes:
        epochs: passes over the images.
        batch_size: images a step (N), at least 2; 0 chooses 512, or of fewer images the half of them.
        optimizer: `adam` or `sgd` (with `momentum`).
        lr: the projection's rate; the backbone's is lr * backbone_lr_scale, the codebooks' lr * codebook_lr_scale.
        weight_decay: torch's, on the network only, never on the codebooks: twice beta of Eq. 14, for the gradient of
            `beta * |theta|^2` is 2 * beta * theta and torch adds weight_decay * theta.
        warmup_epochs, final_lr_scale: linear warm-up, then a cosine down to this share of each group's rate.
        temperature, positive_prior: tau and rho+ of the loss (Eq. 12), the chance that two images are of one kind.
        asymmetric_share: how much of the contrastive loss compares embeddings with reconstructions, as a search does; 0
            is the paper's, which compares reconstructions only.
        preserve_weight: weight of a term by which reconstructions rank a batch's images as the standardized features of
            their views do; 0 is the paper's.
        preserve_neighbors: the features of each image are averaged for that with those of its so many nearest which
            have it among as many nearest of theirs (`training.smoothing`); 0 takes them as they are.
        preserve_temperature: of the softmax over those features' cosines, or over the scores of a `metric` to preserve
            (of `ip` and `l2` in tenfold standard deviations of a query's scores).
        polish_rounds: rounds of spherical k-means that bring the learned codewords to the training views' segments
            once the last epoch is over; 0 is the paper's.
        diversity_weight: gamma of Eq. 14.
        entropy_weight: weight of the soft codes' entropy (not in the paper; 0 is off).
        memory_size, memory_kind, memory_start_epoch: N_M slots (0 is off), soft | feature | hard, the first epoch
            that uses them.
        codebook_init: `random` unit vectors, or codewords drawn from the `data`'s first embeddings.
        view_cache, cached_views: with a frozen backbone, cache the features of this many random views an image, at
            least 2; 0 chooses 10 to 40, 200,000 in all where that lies between, and on a CPU fewer of a heavy backbone,
            down to 4 (`training.num_views`).
        crop_scale, flip, jitter, jitter_p, gray, blur: the random views, see `data.views.ViewSpec`.
        feature_dropout: for data that are single feature vectors, the share dropped to make a view.
        seed: of everything random.
        workers: processes that decode images; -1 chooses.
        precision: of the network in training steps: `float32`, `bf16` (autocast), or `auto`: bf16 on a GPU that has it.
            The view cache is made in bf16 only where `bf16` is said: it costs some accuracy. Encoding is float32.
        compile: run the backbone through torch.compile, which needs a C++ compiler.
        micro_batch: images at a time through a backbone that learns, for want of memory: their activations are computed
            a second time in the backward pass, and batch norm sees no more than these, each once. 0 takes the whole
            batch.

    Example:
        >>> from mecoq_faiss import TrainConfig
        >>> TrainConfig(epochs=20, optimizer="sgd", cached_views=10).optimizer
        'sgd'
    """

    epochs: int = 100
    batch_size: int = 0
    optimizer: str = "adam"
    lr: float = 2e-3
    momentum: float = 0.9
    backbone_lr_scale: float = 0.1
    codebook_lr_scale: float = 1.0
    weight_decay: float = 1e-4
    warmup_epochs: int = 1
    final_lr_scale: float = 1e-3
    temperature: float = 0.5
    positive_prior: float = 0.15
    asymmetric_share: float = 0.5
    preserve_weight: float = 0.5
    preserve_neighbors: int = 20
    preserve_temperature: float = 0.1
    polish_rounds: int = 15
    diversity_weight: float = 0.5
    entropy_weight: float = 0.0
    memory_size: int = 384
    memory_kind: str = "soft"
    memory_start_epoch: int = 6
    codebook_init: str = "random"
    view_cache: bool = True
    cached_views: int = 0
    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: float = 0.7
    gray: float = 0.2
    blur: float = 0.5
    feature_dropout: float = 0.1
    seed: int = 0
    workers: int = -1
    precision: str = "auto"
    compile: bool = False
    micro_batch: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 1, "epochs", "memory_start_epoch")
        for name in ("batch_size", "cached_views"):
            if getattr(self, name) < 2 and getattr(self, name) != 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 2; 0 chooses")
        _at_least(
            self,
            0,
            "warmup_epochs",
            "micro_batch",
            "memory_size",
            "polish_rounds",
            "seed",
            "weight_decay",
            "diversity_weight",
            "entropy_weight",
            "preserve_weight",
            "preserve_neighbors",
        )
        _at_least(self, 0, "backbone_lr_scale", "codebook_lr_scale", "final_lr_scale")
        _at_least(self, -1, "workers")
        _at_most(self, 1 << 12, "workers")
        _at_most(self, 2**31 - 1, "epochs", "warmup_epochs", "memory_start_epoch", "memory_size")
        _at_most(self, 2**31 - 1, "batch_size", "cached_views", "micro_batch")
        _at_most(self, 1 << 10, "preserve_neighbors")
        _one_of(self, "optimizer", ("adam", "sgd"))
        _one_of(self, "memory_kind", ("soft", "feature", "hard"))
        _one_of(self, "codebook_init", ("random", "data"))
        _one_of(self, "precision", ("auto", "float32", "bf16"))
        for name in ("lr", "temperature", "preserve_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("momentum", "positive_prior", "feature_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        for name in ("asymmetric_share", "flip", "jitter_p", "gray", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a share or a probability: choose 0 to 1")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale={self.crop_scale}: give two shares of the area, 0 < from <= to <= 1")
        if not all(0 <= s <= 1 for s in self.jitter) or self.jitter[3] > 0.5:
            raise ValueError(f"jitter={self.jitter}: give brightness, contrast, saturation in 0 to 1, hue in 0 to 0.5")


# Not pydantic: an error is to be one line that names the setting; it would be a dependency for these checks alone.
Config = ModelConfig | TrainConfig


def _check_types(config: Config) -> None:
    """Every field has its default's type; whole numbers become floats and lists tuples where those are meant."""
    for field in dataclasses.fields(config):
        name, value, default = field.name, getattr(config, field.name), field.default
        if isinstance(default, tuple):
            if not isinstance(value, list | tuple) or len(value) != len(default):
                raise ValueError(f"{name}={reprlib.repr(value)} must be {len(default)} numbers")
            value = tuple(_as_type(name, part, float) for part in value)
        elif default is not None:
            value = _as_type(name, value, type(default))
        elif value is not None:  # feature_dim
            value = _as_type(name, value, int)
        object.__setattr__(config, name, value)


def _as_type(name: str, value: Any, expected: type) -> Any:
    if type(value) is int and value.bit_length() > 63:
        shown = value if value.bit_length() <= 128 else f"(a number of {value.bit_length()} bits)"
        raise ValueError(f"{name}={shown} must be below 2**63, and above -2**63")
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise ValueError(f"{name}={reprlib.repr(value)} must be of type {expected.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value} must be a finite number")
    return value


def _at_least(config: Config, low: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < low:
            raise ValueError(f"{name}={getattr(config, name)} must be at least {low}")


def _at_most(config: Config, high: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) > high:
            raise ValueError(f"{name}={getattr(config, name)} must be at most {high}")


def _one_of(config: Config, name: str, choices: tuple[str, ...]) -> None:
    if getattr(config, name) not in choices:
        raise ValueError(f"{name}={reprlib.repr(getattr(config, name))}: choose one of {', '.join(choices)}")


def code_shape(bits: int, nbits: int) -> int:
    """M for codes of `bits` bits with `nbits` a sub-quantizer; ValueError where they do not fit."""
    if nbits not in (4, 8):
        raise ValueError(f"nbits={nbits}: choose 8 (IndexPQ, IVFPQ) or 4 (FastScan)")
    if bits < 8 or bits % 8:
        raise ValueError(f"bits={bits}: a code takes whole bytes, choose a multiple of 8")
    return bits // nbits


def make_configs(**settings: Any) -> tuple[ModelConfig, TrainConfig]:
    """Sort flat settings into the two configurations; an unknown name is a ValueError."""
    model_names = {field.name for field in dataclasses.fields(ModelConfig)}
    train_names = {field.name for field in dataclasses.fields(TrainConfig)}
    for name in settings:
        if name not in model_names | train_names:
            raise ValueError(f"unknown setting {name!r}: {did_you_mean(name, model_names | train_names)}")
    return (
        ModelConfig(**{k: v for k, v in settings.items() if k in model_names}),
        TrainConfig(**{k: v for k, v in settings.items() if k in train_names}),
    )
