"""The model's configuration in an opened bundle, compared with what the bundle says of it. Imports no torch."""

from __future__ import annotations

from io import BufferedReader

from mecoq_faiss.bundle.folder import ENCODER_FILES, Pinned
from mecoq_faiss.config import CODES, ModelConfig
from mecoq_faiss.config_file import from_json

MOST_BYTES = 1 << 20  # of a configuration, which takes 400


def read_model_config(bundle: Pinned) -> ModelConfig:
    """The model's configuration; ValueError, in one line, where it does not fit the manifest."""
    config_file = bundle.file(ENCODER_FILES[0])
    text = config_file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"{config_file.name} is larger than {MOST_BYTES:,} bytes: export the bundle again")
    config, _ = from_json(text.decode(errors="replace"), str(config_file.name))
    for name in ("M", "nbits"):
        _same(bundle, config_file, name, getattr(config, name), bundle.manifest[name])
    _same(bundle, config_file, "codes", config.codes, bundle.manifest.get("codes", CODES[0]))
    additive = config.codes == "additive"
    _same(bundle, config_file, "D", config.D, bundle.manifest["d"] // (config.M if additive else 1))
    return config


def _same(bundle: Pinned, file: BufferedReader, name: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(
            f"{file.name} has {name}={found}, the manifest of {bundle.bundle} says {expected}: export the bundle again"
        )
