"""model.safetensors: the model that was saved, or one line of what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mecoq_faiss import MeCoQ, ModelConfig
from mecoq_faiss.training.model_file import load_model, save_model
from tests.bounded import refusal

MODEL = ModelConfig(backbone="features", feature_dim=6, hidden=8, D=8, M=2, nbits=4)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(MeCoQ(MODEL), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_what_is_saved_is_loaded_and_chance_stays_as_it_was(tmp_path: Path) -> None:
    model, path = MeCoQ(MODEL), tmp_path / "model.safetensors"
    save_model(model, path)
    state = torch.random.get_rng_state()
    loaded = load_model(MODEL, path)
    assert torch.equal(state, torch.random.get_rng_state()) and not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    with open(path, "rb") as file:
        torch.testing.assert_close(load_model(MODEL, file).state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("other", "said"),
    [({"M": 4}, "quantizer.codebooks is"), ({"hidden": 16}, "projection.0.weight is"), ({"feature_dim": 5}, "is")],
)
def test_another_model_s_file_is_refused(other: dict[str, Any], said: str, saved: Path) -> None:
    message = refusal(lambda: load_model(dataclasses.replace(MODEL, **other), saved), str(saved))
    assert said in message and "for another model" in message


def test_any_flipped_bit_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for place in np.linspace(0, len(content) - 1, 150).astype(int):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            load_model(MODEL, saved)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            raise AssertionError(f"byte {place} of {len(content)}: {content[place - 20 : place + 20]!r}")


@pytest.mark.parametrize("shape", [[[1], 1 << 40], "ab", {"a": 1}, [1.0], [-1, -8], [1 << 63], [True], None, [2] * 99])
def test_a_shape_that_is_none_is_refused_and_not_multiplied(shape: object, tmp_path: Path) -> None:
    header = json.dumps({"quantizer.codebooks": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "a shape is" in refusal(lambda: load_model(MODEL, path), "model.safetensors")
