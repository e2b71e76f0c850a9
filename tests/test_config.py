"""Settings: bounds, types, round trips, presets, and how preset, TOML and options combine."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mecoq_faiss.config import ModelConfig, TrainConfig, code_shape, from_json, make_configs, read_toml, to_json
from mecoq_faiss.presets import PRESETS, preset, settings_for


def refused(cls, text: str, settings: dict) -> None:
    with pytest.raises(ValueError) as error:
        cls(**settings)
    message = str(error.value)
    name, value = next(iter(settings.items()))
    assert message.startswith(name) and text in message and "\n" not in message
    assert isinstance(value, tuple) or str(value) in message


# Bounds and types


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"nbits": 6}, "nbits=6: choose 8"),
        ({"M": 3, "nbits": 4, "D": 33}, "whole bytes, choose an even M"),
        ({"M": 0}, "M=0 must be at least 1"),
        ({"D": 0}, "at least 1"),
        ({"D": 30, "M": 4}, "D=30 is not divisible by M=4: choose a multiple, for example 32"),
        ({"image_size": 0}, "at least 1"),
        ({"hidden": 0}, "at least 1"),
        ({"feature_dim": 0}, "at least 1"),
        ({"feature_dim": "512"}, "of type int"),
        ({"trainable_layers": -2}, "at least -1"),
        ({"projection": "deep"}, "'deep': choose one of linear, mlp"),
        ({"alpha": 0.0}, "must be positive"),
        ({"alpha": float("nan")}, "finite"),
        ({"D": 32.0}, "of type int"),
        ({"D": True}, "of type int"),
        ({"backbone": 5}, "of type str"),
        ({"freeze_codebooks": 1}, "of type bool"),
    ],
)
def test_model_bounds(settings, text):
    refused(ModelConfig, text, settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        *(({name: 0}, "at least 1") for name in ("epochs", "memory_start_epoch")),
        *(({name: 1}, "at least 2") for name in ("batch_size", "cached_views")),
        *(({name: -1}, "at least 0") for name in ("warmup_epochs", "memory_size", "seed")),
        *(({name: -0.1}, "at least 0") for name in ("weight_decay", "diversity_weight", "entropy_weight")),
        *(({name: -0.1}, "at least 0") for name in ("backbone_lr_scale", "codebook_lr_scale", "final_lr_scale")),
        *(({name: 0.0}, "must be positive") for name in ("lr", "temperature")),
        *(({name: 1.0}, "[0, 1)") for name in ("momentum", "positive_prior", "feature_dropout")),
        *(({name: -0.1}, "[0, 1)") for name in ("momentum", "positive_prior", "feature_dropout")),
        *(({name: 1.1}, "choose 0 to 1") for name in ("flip", "jitter_p", "grey", "blur")),
        *(({name: -0.1}, "choose 0 to 1") for name in ("flip", "jitter_p", "grey", "blur")),
        ({"workers": -2}, "at least -1"),
        ({"seed": 2**63}, "below 2**63"),
        ({"optimizer": "lamb"}, "choose one of adam, sgd"),
        ({"memory_kind": "big"}, "choose one of soft, feature, hard"),
        ({"codebook_init": "zero"}, "choose one of random, data"),
        ({"precision": "fp8"}, "choose one of auto, float32, bf16"),
        ({"crop_scale": (0.0, 1.0)}, "0 < from <= to <= 1"),
        ({"crop_scale": (0.9, 0.5)}, "0 < from <= to <= 1"),
        ({"crop_scale": (0.5, 1.1)}, "0 < from <= to <= 1"),
        ({"crop_scale": (0.5,)}, "must be 2 numbers"),
        ({"crop_scale": 0.5}, "must be 2 numbers"),
        ({"crop_scale": ("a", "b")}, "of type float"),
        ({"jitter": (0.4, 0.4, 0.4)}, "must be 4 numbers"),
        ({"jitter": (1.4, 0.4, 0.4, 0.1)}, "in 0 to 1"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "hue in 0 to 0.5"),
        ({"jitter": (0.4, 0.4, 0.4, float("nan"))}, "finite"),
        ({"lr": float("inf")}, "finite"),
        ({"lr": "1e-3"}, "of type float"),
        ({"view_cache": "no"}, "of type bool"),
    ],
)
def test_train_bounds(settings, text):
    refused(TrainConfig, text, settings)


def test_values_at_the_bounds_are_taken():
    ModelConfig(D=1, M=1, hidden=1, image_size=1, trainable_layers=-1, feature_dim=1)
    TrainConfig(epochs=1, batch_size=2, memory_size=0, seed=2**63 - 1, flip=0, blur=1, crop_scale=(1, 1), workers=-1)
    TrainConfig(jitter=(0, 1, 1, 0.5), momentum=0, positive_prior=0, final_lr_scale=0, warmup_epochs=0)


def test_whole_numbers_and_lists_become_what_is_meant():
    c = TrainConfig(lr=1, crop_scale=[1, 1], jitter=[0, 0, 0, 0])  # as JSON and TOML give them
    assert type(c.lr) is float and c.crop_scale == (1.0, 1.0) and c.jitter == (0.0,) * 4
    assert all(type(part) is float for part in (*c.crop_scale, *c.jitter))
    assert to_json(ModelConfig(), c) == to_json(
        ModelConfig(), TrainConfig(lr=1.0, crop_scale=(1.0, 1.0), jitter=(0.0,) * 4)
    )


def test_zero_chooses():
    assert (TrainConfig().batch_size, TrainConfig().cached_views) == (0, 0)


def test_digits_have_defaults_of_their_own(caplog):
    def of(*args, protocol="digits", **options):
        model, train = make_configs(**settings_for(*args, protocol=protocol, **options))
        return model.backbone, model.image_size, train.flip, train.blur, train.jitter_p, train.grey

    assert of() == ("pixels", 8, 0, 0, 0, 0)
    assert of(options={"backbone": "pixels", "image_size": 16, "flip": 0.5}) == ("pixels", 16, 0.5, 0, 0, 0)
    assert of(options={"backbone": "resnet18"}) == ("resnet18", 224, 0, 0, 0, 0)  # 8 pixels are too few for it
    assert of(pairs=("blur=0.1", "image_size=6")) == ("pixels", 6, 0, 0.1, 0, 0)
    for other in (of("cifar10-ii-32"), of(protocol="cifar10-ii"), of(protocol="")):
        assert other[1:] == (224, 0.5, 0.5, 0.7, 0.2)


def test_configurations_are_frozen_and_know_their_bits():
    c = ModelConfig(D=64, M=16, nbits=4)
    assert (c.K, c.bits) == (16, 64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.D = 32


def test_code_shape():
    assert [code_shape(*shape) for shape in ((16, 8), (32, 4), (64, 8))] == [2, 8, 8]
    for bits, nbits in ((12, 8), (0, 8), (-8, 8), (36, 4), (32, 6)):
        with pytest.raises(ValueError, match="choose"):
            code_shape(bits, nbits)


# Files


def test_json_round_trip():
    model, train = ModelConfig(D=48, M=2, backbone="pixels"), TrainConfig(lr=0.5, jitter=(0.1, 0.2, 0.3, 0.4))
    assert from_json(to_json(model, train, format=1), "x") == (model, train)
    assert from_json(to_json(model), "x") == (model, None)
    assert json.loads(to_json(model, train, format=1))["format"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"model": 1}',
        '{"model": {"D": 30}}',
        '{"model": {"newer": 1}}',
        '{"model": {}, "train": []}',
    ],
)
def test_damaged_json(text):
    with pytest.raises(ValueError, match=r"config\.json is damaged or of another version"):
        from_json(text, "run/config.json")


def test_toml_tables_are_headings(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("seed = 3\n[model]\nD = 48\n[train]\nlr = 1e-3\ncrop_scale = [0.2, 1]\n")
    settings = read_toml(path)
    assert settings == {"seed": 3, "D": 48, "lr": 1e-3, "crop_scale": [0.2, 1]}
    model, train = make_configs(**settings)
    assert (model.D, train.seed, train.lr, train.crop_scale) == (48, 3, 1e-3, (0.2, 1.0))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"D = ", "c.toml is not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"D = 8\n[model]\nD = 16", "sets D twice"),
    ],
)
def test_broken_toml(content, text, tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text):
        read_toml(path)


def test_missing_toml(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        read_toml(tmp_path / "none.toml")


def test_unknown_settings_have_suggestions():
    with pytest.raises(ValueError, match="unknown setting 'temprature': did you mean temperature"):
        make_configs(temprature=0.4)
    with pytest.raises(ValueError, match="unknown preset 'flickr-32': did you mean flickr25k-32"):
        preset("flickr-32")
    with pytest.raises(ValueError, match=r"unknown preset 'xyz': choose one of cifar10-i-16, .*default"):
        preset("xyz")


# Presets: the table of the release's settings, the paper's first epochs of the memory

TABLE = {
    # M D tau, weight decay, entropy of the release, rho+, memory's first epoch (paper, release), layers
    "flickr25k-16": (2, 32, 0.4, 0.1, 0.5, 0.15, 5, 5, 0),
    "flickr25k-32": (4, 64, 0.45, 0.1, 1, 0.15, 5, 5, 0),
    "flickr25k-64": (8, 128, 0.4, 0.1, 2, 0.15, 5, 5, 0),
    "cifar10-i-16": (2, 32, 0.25, 0.001, 0.05, 0.1, 15, 3, 2),
    "cifar10-i-32": (4, 64, 0.4, 0.001, 0.05, 0.1, 15, 3, 2),
    "cifar10-i-64": (8, 128, 0.4, 0.001, 0.05, 0.1, 15, 3, 2),
    "cifar10-ii-16": (2, 16, 0.35, 0.01, 0.01, 0.1, 15, 15, 2),
    "cifar10-ii-32": (4, 48, 0.35, 0.005, 0.1, 0.1, 15, 15, 2),
    "cifar10-ii-64": (8, 96, 0.35, 0.01, 0.05, 0.1, 15, 15, 2),
    "nuswide-16": (2, 64, 0.2, 0.01, 1, 0.15, 10, 10, 0),
    "nuswide-32": (4, 32, 0.4, 0.01, 0.2, 0.15, 10, 10, 0),
    "nuswide-64": (8, 128, 0.4, 0.01, 0.01, 0.15, 10, 10, 0),
}


def test_the_presets_are_these():
    assert set(PRESETS) == {"default", *TABLE, *(f"release-{name}" for name in TABLE)}


@pytest.mark.parametrize("name", TABLE)
def test_presets_hold_the_table(name):
    M, D, tau, decay, entropy, prior, start, release_start, layers = TABLE[name]
    for prefix in ("", "release-"):
        m, t = make_configs(**preset(prefix + name))
        assert (m.M, m.D, m.trainable_layers) == (M, D, layers)
        assert (t.temperature, t.weight_decay, t.positive_prior) == (tau, decay, prior)
        assert (m.backbone, m.image_size, m.projection, m.standardize) == ("vgg16", 224, "linear", False)
        assert (m.nbits, m.alpha) == (8, 10)
        assert (t.batch_size, t.epochs, t.optimizer, t.momentum, t.lr) == (128, 50, "sgd", 0.9, 0.01)
        assert (t.warmup_epochs, t.lr * t.final_lr_scale) == (1, pytest.approx(1e-5))
        assert (t.memory_size, t.memory_kind, t.diversity_weight, t.codebook_init) == (384, "soft", 0.5, "random")
        assert t.view_cache is False  # fresh views every epoch
        release = prefix == "release-"
        assert m.freeze_codebooks is release
        assert t.entropy_weight == (entropy if release else 0)
        assert t.memory_start_epoch == (release_start if release else start)


def test_a_preset_is_a_copy():
    preset("nuswide-16")["D"] = 1
    assert preset("nuswide-16")["D"] == 64


def test_the_default_preset_is_the_defaults():
    assert make_configs(**settings_for()) == (ModelConfig(), TrainConfig())


# Preset, TOML and options


def shape(*args, **options) -> tuple[int, int, int]:
    model, _ = make_configs(**settings_for(*args, **options))
    return model.M, model.nbits, model.D


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (4, 8, 64)),
        ({"bits": 64}, (8, 8, 128)),
        ({"nbits": 4}, (8, 4, 128)),
        ({"bits": 16, "nbits": 4}, (4, 4, 64)),
        ({"M": 2}, (2, 8, 32)),
        ({"D": 128}, (4, 8, 128)),
        ({"bits": 64, "D": 128}, (8, 8, 128)),
        ({"bits": 64, "M": 8}, (8, 8, 128)),
        ({"bits": 64, "M": 16, "nbits": 4, "D": 32}, (16, 4, 32)),
    ],
)
def test_the_default_presets_code_shape(options, expected, tmp_path):
    assert shape("default", options=options) == expected
    assert shape("default", pairs=tuple(f"{name}={value}" for name, value in options.items())) == expected
    path = tmp_path / "c.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in options.items()))
    assert shape("default", path) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (4, 8, 48)),
        ({"bits": 32}, (4, 8, 48)),
        ({"bits": 64}, (8, 8, 96)),
        ({"nbits": 4}, (8, 4, 96)),
        ({"M": 2}, (2, 8, 24)),
        ({"bits": 16, "nbits": 4}, (4, 4, 48)),
        ({"bits": 64, "D": 64}, (8, 8, 64)),
    ],
)
def test_other_presets_keep_the_segments_width(options, expected):
    assert shape("cifar10-ii-32", options=options) == expected  # d = 12


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 32, "M": 8}, "bits=32 contradicts M=8 with nbits=8, which make 64"),
        ({"bits": 32, "M": 4, "nbits": 4}, "contradicts M=4 with nbits=4"),
        ({"bits": 12}, "bits=12: a code takes whole bytes, choose a multiple of 8"),
        ({"bits": 0}, "bits=0"),
        ({"nbits": 6}, "nbits=6: choose 8"),
        ({"nbits": 6, "M": 4}, "nbits=6: choose 8"),
        ({"bits": "32"}, "bits='32' must be of type int"),
        ({"M": "4"}, "M='4' must be of type int"),
        ({"bits": 64, "D": 100}, "D=100 is not divisible by M=8"),
        ({"M": 0}, "M=0"),
    ],
)
def test_code_shapes_that_do_not_fit(options, text):
    with pytest.raises(ValueError, match=text.replace("(", r"\(")):
        shape("default", options=options)


def test_pairs_go_over_options_over_toml_over_preset(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("bits = 64\nlr = 0.1\ntemperature = 0.2\nseed = 1\n")
    settings = settings_for("nuswide-32", path, {"lr": 0.3, "seed": 2, "bits": 16}, ("seed=3", "epochs = 4"))
    model, train = make_configs(**settings)
    assert (train.temperature, train.lr, train.seed, train.epochs) == (0.2, 0.3, 3, 4)
    assert train.positive_prior == 0.15  # the preset's
    assert (model.M, model.D) == (2, 16)


def test_pairs_are_toml_values_or_text():
    settings = settings_for(pairs=("backbone=resnet18", 'weights="none"', "view_cache=false", "crop_scale=[0.2, 1]"))
    model, train = make_configs(**settings)
    assert (model.backbone, model.weights, train.view_cache, train.crop_scale) == (
        "resnet18",
        "none",
        False,
        (0.2, 1.0),
    )
    for pair in ("lr", "=3", ""):
        with pytest.raises(ValueError, match="write NAME=VALUE"):
            settings_for(pairs=(pair,))
