"""last.pt put into place: what it held comes back, and one of another training is named and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.contrast import Contrast
from mecoq_faiss.training.last_state import load_state
from mecoq_faiss.training.run_folder import RunFolder

MODEL = ModelConfig(backbone="features", weights="none", feature_dim=6, hidden=8, D=8, M=2, nbits=4)


def begun(seed: int, optimizer: str = "adam") -> tuple[Contrast, torch.optim.Optimizer]:
    """An objective and its optimizer after three steps."""
    torch.manual_seed(seed)
    objective = Contrast(MeCoQ(MODEL), TrainConfig(optimizer=optimizer))
    steps = objective.optimizer()
    for _ in range(3):
        for group in steps.param_groups:
            for p in group["params"]:
                p.grad = torch.randn_like(p)
        steps.step()
    return objective, steps


def saved(folder: Path, objective: Contrast, optimizer: torch.optim.Optimizer) -> RunFolder:
    run = RunFolder(folder)
    folder.mkdir()
    run.write_config(MODEL, objective.config)
    state = {"objective": objective.training_state(), "optimizer": optimizer.state_dict()}
    run.save_state({"epoch": 1, "step": 3} | state)
    return run


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_what_was_saved_comes_back_but_for_the_rates(kind: str, tmp_path: Path) -> None:
    first, steps = begun(0, kind)
    run = saved(tmp_path / "run", first, steps)
    second, others = begun(1, kind)
    others.param_groups[0]["lr"] = 0.25
    assert load_state(run, second, others, 5, True) == (1, 3)
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(others.state_dict()["state"], steps.state_dict()["state"], rtol=0, atol=0)
    assert others.param_groups[0]["lr"] == 0.25


def without(state: dict[str, Any], key: str) -> None:
    del state[key]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.update(objective={"another": torch.ones(1)}), "its tensors have other names"),
        (lambda s: s["objective"].update({"model.quantizer.codebooks": torch.ones(2, 16, 5)}), "codebooks is not"),
        (lambda s: s["objective"].update({"counts": torch.ones(2, 16)}), "counts is not torch.int64"),
        (lambda s: s["optimizer"]["param_groups"].pop(), "its optimizer has other parameters"),
        (lambda s: s["optimizer"]["state"].update({99: {}}), "its optimizer has other parameters"),
        (lambda s: without(s["optimizer"]["state"][0], "exp_avg"), "its tensors have other names"),
        (lambda s: s.update(step=6), "step 6 of 5"),
        (lambda s: s.update(step=4), "its optimizer has made 3 steps"),
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[[dict[str, Any]], Any], says: str, tmp_path: Path) -> None:
    objective, optimizer = begun(0)
    run = saved(tmp_path / "run", objective, optimizer)
    state = run.load_state()
    change(state)
    run.save_state(state)
    other, steps = begun(1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=rf"last\.pt .*{says}.*: train anew"):
        load_state(run, other, steps, 5, True)
    torch.testing.assert_close(other.state_dict(), before, rtol=0, atol=0)
