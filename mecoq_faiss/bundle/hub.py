"""Bundles on the Hugging Face Hub: hf://ORG/NAME[@REVISION] -> the folder in its local cache."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mecoq_faiss.bundle.folder import FILES, MANIFEST, ONNX

PREFIX = "hf://"
OF_ONE = (MANIFEST, *FILES, ONNX, "items-*.h5", "removed.npy", "metadata.parquet")  # what a bundle may have
PATTERNS = (*OF_ONE, *(f"shard-*/{name}" for name in OF_ONE))
MORE = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def on_hub(path: str | Path) -> bool:
    """Whether it is the name of a bundle on the Hub."""
    return isinstance(path, str) and path.startswith(PREFIX)


def local_folder(path: str | Path, names: Iterable[str] = PATTERNS) -> Path:
    """The folder of a bundle, some files of which are downloaded where it is on the Hub and they are not there yet.

    Without a connection it is what was downloaded last.

    Raises:
        FileNotFoundError: no such repository or revision, or none within reach.
        ValueError: another name than hf://ORG/NAME or hf://ORG/NAME@REVISION.
        ImportError: no huggingface_hub (extra: hub).
    """
    if not on_hub(path):
        return Path(path)
    found = MORE.fullmatch(str(path).removeprefix(PREFIX))
    if not found:
        raise ValueError(f"{path}: write hf://ORG/NAME, or hf://ORG/NAME@REVISION")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"huggingface_hub is not installed ({error}): pip install 'mecoq-faiss[hub]'", name=error.name
        ) from error
    try:
        return Path(snapshot_download(found[1], revision=found[2], allow_patterns=list(names)))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{path} cannot be downloaded ({reason}): check its name and `hf auth login`"
        ) from error
