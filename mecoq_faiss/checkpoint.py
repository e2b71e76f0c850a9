"""The run folder: config.json, model.safetensors, metrics.jsonl, last.pt, split.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from .config import ModelConfig, TrainConfig, from_json, to_json
from .files import replacing, write_text
from .model import MeCoQ

FORMAT = 1


def save_model(model: MeCoQ, path: Path) -> None:
    """All tensors of a model into a .safetensors file."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary)


def load_model(config: ModelConfig, path: Path) -> MeCoQ:
    """Build the model of `config` with the tensors of a .safetensors file, in eval mode.

    Raises FileNotFoundError or ValueError where the file is missing, damaged or for another model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: train first, or give the right folder")
    model = MeCoQ(dataclasses.replace(config, weights="none"))
    try:
        model.load_state_dict(load_file(path))
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged or for another model: {reason}") from error
    return model.eval()


class RunFolder:
    """Reads and writes a run.

    `model.safetensors` is whole from the start (the initial model), so a run needs nothing outside its folder;
    `last.pt` adds what has been learned since, after each epoch.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.model_file = self.path / "model.safetensors"
        self.metrics_file = self.path / "metrics.jsonl"
        self.state_file = self.path / "last.pt"
        self.split_file = self.path / "split.json"

    def read_config(self) -> tuple[ModelConfig, TrainConfig]:
        """The settings that the run was started with."""
        if not self.config_file.is_file():
            raise FileNotFoundError(f"{self.path} is not a run folder (no config.json): give a folder that train made")
        model, train = from_json(self.config_file.read_text(encoding="utf-8"), str(self.config_file))
        if train is None:
            raise ValueError(f"{self.config_file} has no training settings: give a folder that train made")
        return model, train

    def write_config(self, model: ModelConfig, train: TrainConfig, **more: Any) -> None:
        write_text(self.config_file, to_json(model, train, format=FORMAT, **more))

    def save_state(self, state: dict[str, Any]) -> None:
        with replacing(self.state_file) as temporary:
            torch.save({"format": FORMAT, **state}, temporary)

    def load_state(self) -> dict[str, Any]:
        """The training state; ValueError where it is damaged."""
        try:
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']}")
        except FileNotFoundError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:150]
            raise ValueError(f"{self.state_file} is damaged or of another version ({reason}): train anew") from error
        return state

    def append_metrics(self, record: dict[str, Any]) -> None:
        with open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records; a half-written last line (of a killed run) is left out."""
        if not self.metrics_file.exists():
            return []
        records = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def rewind_metrics(self, epoch: int, step: int) -> None:
        """Drop the records from a place on: those of a killed run's unsaved steps."""
        kept = [r for r in self.read_metrics() if (r["epoch"], r.get("step", float("inf"))) <= (epoch, step)]
        write_text(self.metrics_file, "".join(json.dumps(r) + "\n" for r in kept))

    def load_trained(self) -> MeCoQ:
        """The trained model, in eval mode; ValueError while the run is unfinished."""
        model_config, train_config = self.read_config()
        epoch = self.load_state()["epoch"] if self.state_file.exists() else 1
        if epoch <= train_config.epochs:
            raise ValueError(
                f"{self.path} is unfinished (epoch {epoch} of {train_config.epochs}): continue it with --resume"
            )
        return load_model(model_config, self.model_file)
