"""Settings in files: TOML in, JSON out and in again, under the names of today."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.storage.files import read_small

RENAMED = {"grey": "gray"}  # settings of version 0.1 -> theirs; saved configurations may hold the old names
BEFORE = {  # of a run that does not say so
    "asymmetric_share": 0.0, "preserve_weight": 0.0, "preserve_neighbors": 0, "polish_rounds": 0,
}  # fmt: skip
MOST_TOML = 1 << 20  # bytes


def read_toml(path: str | Path) -> dict[str, Any]:
    """Flat settings of a TOML file; tables such as [model] and [train] are only headings."""
    try:
        content = tomllib.loads(read_small(path, MOST_TOML).decode())
    except (ValueError, RecursionError) as error:  # bad TOML, not UTF-8, or too large
        raise ValueError(f"{path} is not valid TOML: {_in_one_line(error)}") from error
    settings: dict[str, Any] = {}
    for key, value in content.items():
        for name, setting in value.items() if isinstance(value, dict) else [(key, value)]:
            if name in settings:
                raise ValueError(f"{path} sets {_in_one_line(name)} twice: keep one")
            settings[name] = setting
    return current_names(settings)


def current_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings under their names of today, also those that an older version saved; see `RENAMED`."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}


def to_json(model: ModelConfig, train: TrainConfig | None = None, **more: Any) -> str:
    """The configurations as a JSON text; `from_json` reads it back."""
    content: dict[str, Any] = {"model": dataclasses.asdict(model)}
    for name in ("codes", "metric"):
        if content["model"][name] == getattr(ModelConfig, name):
            del content["model"][name]  # versions that do not know it read the file too
    if train is not None:
        content["train"] = dataclasses.asdict(train)
    return json.dumps(content | more, indent=2) + "\n"


def from_json(text: str, origin: str) -> tuple[ModelConfig, TrainConfig | None]:
    """Read what `to_json` wrote; `origin` names the file in errors."""
    try:
        content = json.loads(text)
        model = ModelConfig(**content["model"])
        train = TrainConfig(**(BEFORE | current_names(content["train"]))) if "train" in content else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{origin} is damaged or of another version: {_in_one_line(error)}") from error
    return model, train


def _in_one_line(said: object) -> str:
    return " ".join(str(said).split())[:300]
