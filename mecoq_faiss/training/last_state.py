"""load_state(): the last checkpoint of a run put into place, compared first with what it shall fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mecoq_faiss.training.checkpoint import StoredTensor
from mecoq_faiss.training.objective import Objective
from mecoq_faiss.training.place import check_place
from mecoq_faiss.training.run_folder import RunFolder


def load_state(
    run: RunFolder,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    steps_per_epoch: int,
    each_counts: bool,
) -> tuple[int, int]:
    """Put `last.pt` into place; returns the epoch and step from which to continue.

    Its tensors are compared with the objective's and the optimizer's before they are read. The rates are not taken
    from it: they follow from the settings, which are the same.
    """
    groups = optimizer.state_dict()["param_groups"]

    def check(state: dict[str, Any]) -> None:
        if state["step"] > steps_per_epoch:
            raise ValueError(f"step {state['step']} of {steps_per_epoch}")
        _check_like(state["objective"], objective.training_state())
        saved = state["optimizer"]
        if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
            raise ValueError("its optimizer has other parameters")
        expected = _optimizer_tensors(optimizer)
        if not isinstance(saved["state"], dict) or not saved["state"].keys() <= expected.keys():
            raise ValueError("its optimizer has other parameters")
        for i, tensors in saved["state"].items():
            _check_like(tensors, expected[i])

    state = run.load_state(check)
    pushed = state["objective"].get("memory.pushed")
    if pushed is not None and not 0 <= int(pushed) < 2**53:
        raise ValueError(f"{run.state_file} is damaged (a memory of {int(pushed)} codes): train anew")
    try:
        check_place(state, steps_per_epoch, each_counts=each_counts)
        objective.load_state_dict(state["objective"], strict=False)  # a frozen backbone is not in it
        optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"{run.state_file} does not fit {run.config_file.name} ({reason}): train anew") from error
    return state["epoch"], state["step"]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, torch.Tensor]]:
    """What the optimizer holds for each parameter, by number, once that has had a gradient; nothing is allocated."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if isinstance(optimizer, torch.optim.SGD):
        with_momentum = bool(optimizer.param_groups[0]["momentum"])
        return {i: {"momentum_buffer": p} if with_momentum else {} for i, p in enumerate(parameters)}
    step = torch.zeros(())
    return {i: {"step": step, "exp_avg": p, "exp_avg_sq": p} for i, p in enumerate(parameters)}


def _check_like(found: Any, expected: Mapping[str, torch.Tensor]) -> None:
    """ValueError unless `found` describes tensors of the names, shapes and dtypes of `expected`."""
    if not isinstance(found, dict) or found.keys() != expected.keys():
        raise ValueError("its tensors have other names")
    for name, tensor in expected.items():
        stored = found[name]
        if not isinstance(stored, StoredTensor) or (stored.shape, stored.dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{name} is not {tensor.dtype} {tuple(tensor.shape)}")
