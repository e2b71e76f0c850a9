"""The run folder: config.json, model.safetensors, metrics.jsonl, last.pt, split.json."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import load, save

from mecoq_faiss.config import ModelConfig, TrainConfig, from_json, to_json
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.storage.checksum import checksum
from mecoq_faiss.storage.files import locked, replacing, write_text

FORMAT = 1
LOCK = ".lock"


def save_model(model: MeCoQ, path: Path) -> None:
    """All tensors of a model into a .safetensors file, with their checksum."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:  # written by Python, whose error names a full disk
        temporary.write_bytes(save(state, metadata={"sha256": checksum(state)}))


def load_model(config: ModelConfig, source: Path | BinaryIO) -> MeCoQ:
    """Build the model of `config` with the tensors of a .safetensors file, in eval mode.

    `source` is the file's path, or the file itself, open. The caller's random state stays as it is.

    Raises FileNotFoundError or ValueError where the file is missing, damaged or for another model.
    """
    path = source if isinstance(source, Path) else Path(source.name)
    if isinstance(source, Path) and not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: train first, or give the right folder")
    with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
        model = MeCoQ(dataclasses.replace(config, weights="none"))
    try:
        content = source.read_bytes() if isinstance(source, Path) else source.read()
        state = load(content)
        if checksum(state) != _written_checksum(content):
            raise RuntimeError("its tensors do not match its checksum")
        model.load_state_dict(state)
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged or for another model: {reason}") from error
    return model.eval()


def _written_checksum(content: bytes) -> str | None:
    """The checksum in the header of a safetensors file: 8 bytes of the header's length, then the header in JSON."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__", {}).get("sha256")


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
        text = self.config_file.read_text(encoding="utf-8", errors="replace")
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

    def load_state(self) -> dict[str, Any]:
        """The training state; ValueError where it is damaged, or config.json is no longer the one it was saved with."""
        try:
            with zipfile.ZipFile(self.state_file) as archive:  # torch.load does not look at the checksums
                if archive.testzip():
                    raise ValueError("wrong checksum")
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']}")
            if not {"settings", "epoch", "step", "objective", "optimizer"} <= state.keys():
                raise ValueError("incomplete")
            settings = from_json(state["settings"], "its copy of the settings")
        except Exception as error:
            reason = " ".join(str(error).split())[:150]
            raise ValueError(f"{self.state_file} is damaged or of another version ({reason}): train anew") from error
        if settings != self.read_config():
            raise ValueError(f"{self.config_file} is not as the run was started: restore it, or train anew")
        return state

    def next_epoch(self) -> int:
        """The epoch in which training continues: 1 at first, epochs + 1 when it is finished."""
        return self.load_state()["epoch"] if self.state_file.exists() else 1

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`."""
        with open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records; a damaged line, such as the half-written last one of a killed run, is left out."""
        if not self.metrics_file.exists():
            return []
        records = []
        for line in self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("epoch"), int):
                records.append(record)
        return records

    def rewind_metrics(self, epoch: int, step: int) -> None:
        """Keep the records of earlier epochs and of the first `step` steps of `epoch`: a killed run's rest goes."""
        kept = [r for r in self.read_metrics() if (r["epoch"], r.get("step", float("inf"))) <= (epoch, step)]
        write_text(self.metrics_file, "".join(json.dumps(r) + "\n" for r in kept))

    def load_trained(self) -> MeCoQ:
        """The trained model, in eval mode; ValueError while the run is unfinished."""
        model_config, train_config = self.read_config()
        epoch = self.next_epoch()
        if epoch <= train_config.epochs:
            raise ValueError(
                f"{self.path} is unfinished (epoch {epoch} of {train_config.epochs}): continue it with --resume"
            )
        return load_model(model_config, self.model_file)


def _interned(value: Any) -> Any:
    """The same content with one object for equal names.

    Pickle writes a name once for each object, and those that were read from a file are others than the program's.
    """
    if isinstance(value, dict):
        return {_interned(name): _interned(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_interned(inner) for inner in value]
    return sys.intern(value) if type(value) is str else value
