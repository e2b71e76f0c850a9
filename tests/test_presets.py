"""Presets: the paper's table, and how preset, TOML and options combine."""

from __future__ import annotations

import pytest

from mecoq_faiss.config import ModelConfig, TrainConfig, make_configs
from mecoq_faiss.presets import DIGITS, PRESETS, preset, settings_for

TABLE = {  # the release's settings, the paper's first epochs of the memory
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


def test_digits_have_defaults_of_their_own(caplog):
    def of(*args, protocol="digits", **options):
        model, train = make_configs(**settings_for(*args, protocol=protocol, **options))
        return model.backbone, model.image_size, train.flip, train.blur, train.jitter_p, train.gray

    assert of() == ("pixels", 8, 0, 0, 0, 0)
    assert of(options={"backbone": "pixels", "image_size": 16, "flip": 0.5}) == ("pixels", 16, 0.5, 0, 0, 0)
    assert of(options={"backbone": "resnet18"}) == ("resnet18", 224, 0, 0, 0, 0)  # 8 pixels are too few for it
    assert of(pairs=("blur=0.1", "image_size=6")) == ("pixels", 6, 0, 0.1, 0, 0)
    caplog.clear()
    with caplog.at_level("INFO", "mecoq_faiss"):
        assert of(options=dict(DIGITS, flip=0.5)) == ("pixels", 8, 0.5, 0, 0, 0)
    assert not caplog.records  # nothing is left to be said
    for other in (of("cifar10-ii-32"), of(protocol="cifar10-ii"), of(protocol="")):
        assert other[1:] == (224, 0.5, 0.5, 0.7, 0.2)


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


def test_unknown_presets_have_suggestions():
    with pytest.raises(ValueError, match="unknown preset 'flickr-32': did you mean flickr25k-32"):
        preset("flickr-32")
    with pytest.raises(ValueError, match=r"unknown preset 'xyz': choose one of cifar10-i-16, .*default"):
        preset("xyz")


def test_a_run_goes_on_with_what_it_was_started_with(caplog):
    started = {"D": 48, "M": 4, "nbits": 8, "lr": 0.5, "backbone": "pixels"}
    with caplog.at_level("INFO", "mecoq_faiss"):
        settings = settings_for(started_with=started, options={"epochs": 9}, protocol="digits")
    assert settings == started | {"epochs": 9} and not caplog.records  # not the digits' own once more
    assert settings_for("nuswide-32", started_with=started)["lr"] == 0.01  # a preset says otherwise
    assert settings_for(options={"bits": 64}, started_with=started)["D"] == 96  # its segments' width
