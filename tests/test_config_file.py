"""Settings in files: round trips through JSON and TOML, older files, and what is refused."""

from __future__ import annotations

import json
import os

import pytest

from mecoq_faiss.config import ModelConfig, TrainConfig, make_configs
from mecoq_faiss.config_file import BEFORE, from_json, read_toml, to_json


def test_json_round_trip():
    model, train = ModelConfig(D=48, M=2, backbone="pixels"), TrainConfig(lr=0.5, jitter=(0.1, 0.2, 0.3, 0.4))
    assert from_json(to_json(model, train, format=1), "x") == (model, train)
    assert from_json(to_json(model), "x") == (model, None)
    assert json.loads(to_json(model, train, format=1))["format"] == 1
    assert "codes" not in to_json(model), "as versions wrote it that had product codes only"
    additive = ModelConfig(codes="additive")
    assert from_json(to_json(additive), "x") == (additive, None)


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
        "[" * 100_000,
        '{"model": {"a\\nb": 1}}',
        '{"model": {"D": 1e999}}',
        '{"model": {"alpha": NaN}}',
        '{"model": {"alpha": Infinity}}',
        '{"model": {"alpha": 1' + "0" * 400 + "}}",
        '{"model": {"D": 1' + "0" * 5000 + "}}",
        '{"model": {"backbone": ["' + "x" * 100_000 + '"]}}',
    ],
)
def test_damaged_json(text):
    with pytest.raises(ValueError, match=r"config\.json is damaged or of another version") as error:
        from_json(text, "run/config.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


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
        (b'"a\\nb" = 8\n[model]\n"a\\nb" = 16', "sets a b twice"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"D = 1" + b"0" * 5000, "not valid TOML"),
        (b"#" * 2_000_000, "larger than 1,048,576 bytes"),
    ],
)
def test_broken_toml(content, text, tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text) as error:
        read_toml(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["9223372036854775808", "0x" + "f" * 9000, "inf", "nan", "-inf", "1e999"])
def test_numbers_without_bounds_in_toml(value, tmp_path):
    (tmp_path / "c.toml").write_text(f"lr = {value}\n")
    with pytest.raises(ValueError, match=r"^lr=.*(below 2\*\*63|a finite number)") as error:
        make_configs(**read_toml(tmp_path / "c.toml"))
    assert len(str(error.value)) < 200


def test_a_pipe_instead_of_toml(tmp_path):
    os.mkfifo(tmp_path / "c.toml")
    with pytest.raises(OSError, match="Not a regular file"):
        read_toml(tmp_path / "c.toml")


def test_missing_toml(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        read_toml(tmp_path / "none.toml")


def test_settings_saved_under_older_names_are_read(tmp_path) -> None:
    text = to_json(ModelConfig(), TrainConfig(gray=0.3))
    assert from_json(text.replace('"gray"', '"grey"'), "config.json") == from_json(text, "config.json")
    (tmp_path / "old.toml").write_text("[train]\ngrey = 0.3\nblur = 0.1\n")
    assert read_toml(tmp_path / "old.toml") == {"gray": 0.3, "blur": 0.1}


def test_a_run_that_does_not_say_goes_on_as_it_began() -> None:
    content = json.loads(to_json(ModelConfig(), TrainConfig()))
    for name in BEFORE:
        del content["train"][name]
    _, train = from_json(json.dumps(content), "config.json")
    assert train is not None
    assert (train.asymmetric_share, train.preserve_weight, train.polish_rounds) == (0, 0, 0)
    assert train.preserve_neighbors == 0
    assert TrainConfig().preserve_weight > 0, "a new one has it"
