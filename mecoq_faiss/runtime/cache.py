"""Where what can be made again is kept: features of views, copies of what lies elsewhere."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$MECOQ_FAISS_CACHE, or mecoq-faiss in the user's cache folder."""
    base = os.environ.get("MECOQ_FAISS_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mecoq-faiss"


def make_folder(folder: Path) -> None:
    """Make a folder in it; OSError that names the mend where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"the cache {folder} cannot be made ({why}): name another folder in MECOQ_FAISS_CACHE") from error
