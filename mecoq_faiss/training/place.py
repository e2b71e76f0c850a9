"""Whether a checkpoint's place in the training is the one that its own tensors tell of."""

from __future__ import annotations

from typing import Any

import torch

from mecoq_faiss.model import MeCoQ


def check_place(state: dict[str, Any], steps_per_epoch: int, *, each_counts: bool) -> None:
    """ValueError where Adam has counted other steps than lie before the epoch and step of a training state.

    Args:
        state: as `RunFolder.load_state` gives it.
        steps_per_epoch: of the training.
        each_counts: no batch was left out; one of which no image could be read is.
    """
    counted = [int(held["step"]) for held in state["optimizer"]["state"].values() if "step" in held]
    place = (state["epoch"] - 1) * steps_per_epoch + state["step"]
    made = max(counted, default=0)
    if counted and (made > place or (each_counts and made != place)):
        raise ValueError(f"its optimizer has made {made} steps, {place} lie before its place")


def check_finished(state: dict[str, Any], model: MeCoQ) -> None:
    """ValueError unless the model is the one that a finished training's state holds, after at least one step."""
    if not state["optimizer"]["state"] and model.quantizer.codebooks.requires_grad:
        raise ValueError("its optimizer has made no step")
    expected = model.state_dict()
    for name, tensor in state["objective"].items():
        own = expected.get(name.removeprefix("model."))
        if name.startswith("model.") and (own is None or not torch.equal(own, tensor)):
            raise ValueError(f"{name.removeprefix('model.')} is not that of the model")
