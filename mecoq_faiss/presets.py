"""Named settings, and how preset, TOML file and options together give a run's settings."""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path
from typing import Any

from mecoq_faiss.config import ModelConfig, code_shape
from mecoq_faiss.config_file import read_toml
from mecoq_faiss.runtime.suggest import did_you_mean

logger = logging.getLogger("mecoq_faiss")

# protocol: D at 16, 32, 64 bits; tau; weight decay (torch's); entropy weight; rho+; memory's first epoch, the paper's
# and the release's; trainable layers. The paper leaves tau, beta and D open; those are its public release's. Both draw
# fresh views every epoch, also where the backbone is frozen.
_PAPER: dict[str, tuple[Any, ...]] = {
    "flickr25k": ((32, 64, 128), (0.4, 0.45, 0.4), (0.1,) * 3, (0.5, 1.0, 2.0), 0.15, 5, 5, 0),
    "cifar10-i": ((32, 64, 128), (0.25, 0.4, 0.4), (0.001,) * 3, (0.05,) * 3, 0.1, 15, 3, 2),
    "cifar10-ii": ((16, 48, 96), (0.35,) * 3, (0.01, 0.005, 0.01), (0.01, 0.1, 0.05), 0.1, 15, 15, 2),
    "nuswide": ((64, 32, 128), (0.2, 0.4, 0.4), (0.01,) * 3, (1.0, 0.2, 0.01), 0.15, 10, 10, 0),
}


def _presets() -> dict[str, dict[str, Any]]:
    presets: dict[str, dict[str, Any]] = {"default": {}}
    for protocol, (dims, taus, decays, entropies, prior, start, release_start, layers) in _PAPER.items():
        for i, bits in enumerate((16, 32, 64)):
            paper = dict(
                backbone="vgg16", image_size=224, projection="linear", D=dims[i], M=bits // 8, nbits=8, alpha=10.0,
                trainable_layers=layers, epochs=50, batch_size=128, optimizer="sgd", lr=0.01, momentum=0.9,
                weight_decay=decays[i], warmup_epochs=1, final_lr_scale=1e-3, temperature=taus[i],
                positive_prior=prior, diversity_weight=0.5, entropy_weight=0.0, memory_size=384, memory_kind="soft",
                memory_start_epoch=start, codebook_init="random", standardize=False, asymmetric_share=0.0,
                preserve_weight=0.0, polish_rounds=0, view_cache=False,
            )  # fmt: skip
            presets[f"{protocol}-{bits}"] = paper
            presets[f"release-{protocol}-{bits}"] = paper | dict(
                freeze_codebooks=True, entropy_weight=entropies[i], memory_start_epoch=release_start
            )
    return presets


DIGITS: dict[str, Any] = dict(
    backbone="pixels", image_size=8, flip=0.0, gray=0.0, jitter_p=0.0, blur=0.0
)  # digits are neither mirrored nor coloured: the random views only crop
"""Under the default preset, for the protocol `digits`: small, offline, nothing to download."""

OBJECTIVES: dict[str, dict[str, Any]] = {
    "semantic": {"preserve_weight": 0.0},
    "both": {},
    "fine": {"preserve_weight": 1.0, "preserve_neighbors": 0, "preserve_temperature": 0.05, "codes": "additive"},
    "preserve": dict(
        metric="cosine", codes="additive", projection="linear", standardize=False, D=256, epochs=12, lr=3e-4,
        codebook_lr_scale=3.0, weight_decay=0.0, warmup_epochs=0, preserve_temperature=0.05,
    ),
}  # fmt: skip
"""What similar is to mean -> settings: of one kind, as the images' views tell; near by given features; or both.

`fine` is `both` where kinds are many, and what is of one kind is a small part of the collection.
"""

PRESETS = _presets()
"""Name -> settings that differ from the defaults: `default`, the paper's 12, and `release-*`, its public code's."""


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset, a copy; ValueError with the nearest names where there is none."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: {did_you_mean(name, PRESETS)}")
    return dict(PRESETS[name])


def settings_for(
    preset_name: str = "default",
    toml: str | Path | None = None,
    options: dict[str, Any] | None = None,
    pairs: tuple[str, ...] = (),
    *,
    protocol: str = "",
    objective: str = "both",
    started_with: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Flat settings for `make_configs`: the preset's, under a TOML file's, under `options`, under NAME=VALUE `pairs`.

    Below them all lie those that a run to be continued was `started_with`; without these, where the data is the
    protocol `digits`, the default preset is `DIGITS`; with another backbone, only its views. Over the default preset
    lie those of an objective, which TOML, options and pairs may name too (`OBJECTIVES`).

    TOML, options and pairs may also hold `bits`. They decide the code's shape together: M, where not given, is
    bits / nbits; D, where not given, keeps the segments as wide as they are (d = D / M, 16 in the default preset).

    Raises:
        ValueError: unknown preset, bits that nbits does not divide, or that contradict M * nbits.
        OSError: a TOML file that cannot be read.
    """
    base = (started_with or {}) | preset(preset_name)
    given = (read_toml(toml) if toml else {}) | (options or {}) | dict(_parse_pair(pair) for pair in pairs)
    if protocol == "digits" and preset_name == "default" and not started_with:
        base = _for_digits(given)
    named = given.pop("objective", None)
    if named is not None and named not in OBJECTIVES:
        raise ValueError(f"objective={named!r}: choose one of {', '.join(OBJECTIVES)}")
    if named is not None or (preset_name == "default" and not started_with):
        base = base | OBJECTIVES[named or objective]
    if given.get("metric", "aqs") != "aqs" and base.get("metric", "aqs") == "aqs":
        raise ValueError(f"metric={given['metric']} is to be preserved: set objective=preserve")
    for name in given.keys() & {"bits", "M", "nbits"}:
        if type(given[name]) is not int:
            raise ValueError(f"{name}={given[name]!r} must be of type int")
    start = ModelConfig(**{name: base[name] for name in ("M", "D", "nbits", "metric", "codes") if name in base})
    bits, nbits = given.pop("bits", None), given.get("nbits", start.nbits)
    M = given.get("M")
    if M is None:
        M = code_shape(start.bits if bits is None else bits, nbits)
    elif bits not in (None, M * nbits):
        raise ValueError(f"bits={bits} contradicts M={M} with nbits={nbits}, which make {M * nbits}: give one of them")
    preserves = {"metric": start.metric, **given}["metric"] != "aqs"  # then D is a codeword's whole width
    D = -(-start.D // M) * M if preserves else M * (start.D // start.M)
    return base | {"M": M, "nbits": nbits, "D": D} | given


def _for_digits(given: dict[str, Any]) -> dict[str, Any]:
    """What of `DIGITS` the settings leave open, said in a line."""
    other = given.get("backbone", "pixels") != "pixels"
    left = {n: v for n, v in DIGITS.items() if n not in given and not (other and n in ("backbone", "image_size"))}
    if left:
        logger.info("digits: %s unless told otherwise", ", ".join(f"{name}={value}" for name, value in left.items()))
    return left


def _parse_pair(pair: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as TOML writes it, or as plain text."""
    name, equals, value = (part.strip() for part in pair.partition("="))
    if not name or not equals:
        raise ValueError(f"--set {pair}: write NAME=VALUE")
    try:
        return name, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return name, value
