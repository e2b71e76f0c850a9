"""The run folder: config.json, model.safetensors, metrics.jsonl, last.pt, split.json."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.config_file import from_json, to_json
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.storage.files import check_regular, locked, open_regular, read_small, replacing, write_text
from mecoq_faiss.training.checkpoint import Checkpoint, StoredTensor
from mecoq_faiss.training.model_file import Refused, load_model
from mecoq_faiss.training.place import check_finished

FORMAT = 1
LOCK = ".lock"
_MOST_METRICS = 1 << 30  # bytes
_MOST_LINE = 1 << 20


class RunFolder:
    """Reads and writes a run.

    `config.json` is written first and marks the folder as ours; `model.safetensors`, written last of a start, is whole
    from then on (the initial model), so that a run needs nothing outside its folder;
    `last.pt` adds what has been learned since, after each epoch. The trained model replaces the initial one before
    `last.pt` says that the run is finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.model_file = self.path / "model.safetensors"
        self.metrics_file = self.path / "metrics.jsonl"
        self.state_file = self.path / "last.pt"
        self.split_file = self.path / "split.json"

    @property
    def is_ours(self) -> bool:
        """Whether training made this folder: its config.json, which is written first, says so."""
        try:
            self.read_config()
        except (OSError, ValueError):
            return False
        return True

    @property
    def is_started(self) -> bool:
        """Whether there is something to continue, and not only what a start left that was killed."""
        return self.config_file.exists() and (self.model_file.exists() or self.state_file.exists())

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Within, the folder is there and this process's; afterwards it is gone if it is empty.

        Raises:
            files.InUseError: another process trains there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / LOCK
        with locked(lock, wait=False):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    self.path.rmdir()

    def foreign(self) -> list[Path]:
        """What is in a folder without a run, but for what a start left that was killed; files of a run's names too."""
        own = {LOCK, *(path.name for path in self._temporary())}
        return [path for path in self.path.iterdir() if path.name not in own]

    def remove_temporary(self) -> None:
        """Remove what a killed run had begun to write."""
        for left in self._temporary():
            left.unlink()

    def _temporary(self) -> list[Path]:
        return [left for file in self._files() for left in self.path.glob(f".{file.name}.[0-9]*.tmp")]

    def remove(self) -> None:
        """Remove what training wrote, if training made the folder. The folder goes when it is closed."""
        if not self.is_ours:
            return
        self.remove_temporary()
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        for path in reversed(self._files()):  # config.json, the proof, goes last
            path.unlink(missing_ok=True)

    def _files(self) -> tuple[Path, ...]:
        return self.config_file, self.model_file, self.metrics_file, self.state_file, self.split_file

    def read_config(self) -> tuple[ModelConfig, TrainConfig]:
        """The settings that the run was started with."""
        if not self.config_file.is_file():
            raise FileNotFoundError(f"{self.path} is not a run folder (no config.json): give a folder that train made")
        try:
            text = read_small(self.config_file).decode(errors="replace")
        except ValueError as error:
            raise ValueError(f"{self.config_file} is damaged: {error}") from error
        model, train = from_json(text, str(self.config_file))
        if train is None:
            raise ValueError(f"{self.config_file} has no training settings: give a folder that train made")
        if json.loads(text).get("format") != FORMAT:
            raise ValueError(f"{self.config_file} is of another version: use the mecoq-faiss that made it")
        return model, train

    def write_config(self, model: ModelConfig, train: TrainConfig, **more: Any) -> None:
        """Write the settings, and what `more` there is to record."""
        write_text(self.config_file, to_json(model, train, format=FORMAT, **more))

    def save_state(self, state: dict[str, Any]) -> None:
        """Write `last.pt`, whole or not at all."""
        content = BytesIO()  # a file's own name would stand in its bytes
        torch.save(_interned({"format": FORMAT, "settings": to_json(*self.read_config()), **state}), content)
        with replacing(self.state_file) as temporary:
            temporary.write_bytes(content.getbuffer())

    def load_state(self, check: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """The training state.

        Args:
            check: called before any tensor is read, with a `StoredTensor` for each; a ValueError of its refuses.

        Raises:
            ValueError: it is damaged, or config.json is no longer the one it was saved with.
        """
        with self._opened_state() as (checkpoint, state):
            try:
                if check is not None:
                    check(state)
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                raise self._unfit(error) from error
            return _read_tensors(state, checkpoint)

    @contextlib.contextmanager
    def _opened_state(self) -> Iterator[tuple[Checkpoint, dict[str, Any]]]:
        """`last.pt`, open, with its content but for the tensors; errors within are of a damaged file."""
        try:
            with open_regular(self.state_file) as file:
                checkpoint = Checkpoint(file)
                yield checkpoint, self._checked(checkpoint.content)
        except (FileNotFoundError, Refused):
            raise
        except Exception as error:  # a damaged pickle lets out nearly any exception
            reason = " ".join(str(error).split())[:150]
            raise ValueError(f"{self.state_file} is damaged or of another version ({reason}): train anew") from error

    def _unfit(self, reason: object) -> ValueError:
        said = " ".join(str(reason).split())[:150]
        return Refused(f"{self.state_file} does not fit {self.config_file.name} ({said}): train anew")

    def _checked(self, state: Any) -> dict[str, Any]:
        """The state with the types and numbers that it must have; its tensors are not read."""
        if not isinstance(state, dict) or type(state.get("format")) is not int or state["format"] != FORMAT:
            raise ValueError("another format")
        if not {"settings", "epoch", "step", "objective", "optimizer"} <= state.keys():
            raise ValueError("incomplete")
        if type(state["settings"]) is not str:
            raise ValueError("its copy of the settings is no text")
        settings = from_json(state["settings"], "its copy of the settings")
        if settings != self.read_config():
            raise Refused(f"{self.config_file} is not as the run was started: restore it, or train anew")
        epoch, step, epochs = state["epoch"], state["step"], self.read_config()[1].epochs
        if type(epoch) is not int or type(step) is not int or not 1 <= epoch <= epochs + 1 or step < 0:
            raise ValueError(f"no place in a training of {epochs} epochs")
        if epoch > epochs and step > 0:
            raise ValueError("a step after the last epoch")
        objective, optimizer = state["objective"], state["optimizer"]
        if not isinstance(objective, dict) or not all(isinstance(t, StoredTensor) for t in objective.values()):
            raise ValueError("its objective is no dict of tensors")
        if not objective or not isinstance(optimizer, dict) or not {"state", "param_groups"} <= optimizer.keys():
            raise ValueError("its objective or its optimizer is incomplete")
        slots = objective.get("memory.slots")  # config.json's are allocated before all names are compared
        if (slots.shape[:1] if slots else (0,)) != (_memory_size(*self.read_config()),):
            raise self._unfit("its tensors have other names" if slots is None else "a memory of another size")
        return state

    def next_epoch(self) -> int:
        """The epoch in which training continues: 1 at first, epochs + 1 when it is finished.

        ValueError where the state is damaged, or missing after the last epoch: the model is no longer the initial one.
        """
        if not self.state_file.exists():
            last = self.read_config()[1].epochs
            if any(record["epoch"] == last and "step" not in record for record in self.read_metrics()):
                raise ValueError(f"{self.state_file} is missing, and its training was done: restore it, or train anew")
            return 1
        with self._opened_state() as (_, state):
            return state["epoch"]

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`."""
        with contextlib.suppress(FileNotFoundError):
            check_regular(self.metrics_file)
        with open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records; a damaged line, such as the half-written last one of a killed run, is left out."""
        records: list[dict[str, Any]] = []
        if not self.metrics_file.exists():
            return records
        with open_regular(self.metrics_file) as file:
            if os.fstat(file.fileno()).st_size > _MOST_METRICS:
                raise ValueError(f"{self.metrics_file} is larger than {_MOST_METRICS:,} bytes: move it away")
            while line := file.readline(_MOST_LINE):
                try:
                    record = json.loads(line.decode(errors="replace"))
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict) and isinstance(record.get("epoch"), int):
                    records.append(record)
        return records

    def rewind_metrics(self, epoch: int, step: int) -> None:
        """Keep the records of earlier epochs and of the first `step` steps of `epoch`: a killed run's rest goes."""
        kept = [r for r in self.read_metrics() if (r["epoch"], _step_of(r)) <= (epoch, step)]
        write_text(self.metrics_file, "".join(json.dumps(r) + "\n" for r in kept))

    def load_trained(self) -> MeCoQ:
        """The trained model, in eval mode; ValueError while the run is unfinished."""
        model_config, train_config = self.read_config()
        epoch = self.next_epoch()
        if epoch <= train_config.epochs:
            raise ValueError(
                f"{self.path} is unfinished (epoch {epoch} of {train_config.epochs}): continue it with --resume"
            )
        model = load_model(model_config, self.model_file)
        state = self.load_state()
        try:
            check_finished(state, model)
        except ValueError as error:
            raise ValueError(f"{self.state_file} does not fit {self.model_file.name} ({error}): train anew") from error
        return model


def _step_of(record: dict[str, Any]) -> float:
    step = record.get("step")
    return step if isinstance(step, int) else float("inf")


def _read_tensors(value: Any, checkpoint: Checkpoint) -> Any:
    """The same content with the tensors in the place of their descriptions."""
    if isinstance(value, StoredTensor):
        return checkpoint.tensor(value)
    if isinstance(value, dict):
        return {name: _read_tensors(inner, checkpoint) for name, inner in value.items()}
    if isinstance(value, list):
        return [_read_tensors(inner, checkpoint) for inner in value]
    return value


def _interned(value: Any) -> Any:
    """The same content with one object for equal names.

    Pickle writes a name once for each object, and those that were read from a file are others than the program's.
    """
    if isinstance(value, dict):
        return {_interned(name): _interned(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_interned(inner) for inner in value]
    return sys.intern(value) if type(value) is str else value


def _memory_size(model: ModelConfig, train: TrainConfig) -> int:
    """Slots of the code memory, which codes that preserve a metric do without."""
    return train.memory_size if model.metric == "aqs" else 0
