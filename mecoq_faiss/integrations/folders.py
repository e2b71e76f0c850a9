"""Folders that other programs read, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mecoq_faiss.bundle.folder import read_manifest
from mecoq_faiss.bundle.generation import Generation
from mecoq_faiss.storage.files import check_writable_parent, sync_folder
from mecoq_faiss.storage.work_folder import WorkFolder


@contextmanager
def made_of(bundle: str | Path, out: str | Path, names: str) -> Iterator[tuple[Generation, Path]]:
    """An open bundle, and a folder that takes the name `out` when the block ends well; else nothing is left.

    Args:
        bundle: its folder.
        out: the folder to be made; refused where it exists.
        names: regular expression of what lies in it.

    Raises:
        FileExistsError: `out` is there.
        ValueError: another bundle took this one's place meanwhile; or a damaged one.
    """
    out = Path(out)
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists: choose another folder")
    check_writable_parent(out)
    work = WorkFolder(out.with_name(out.name + ".partial"), {"format": 1, "of": str(bundle)}, names)
    generation = Generation(bundle, "cpu")
    try:
        with work.opened():
            work.clear(keep=())
            try:
                yield generation, work.path
                if read_manifest(bundle) != generation.manifest:
                    raise ValueError(f"{bundle} was replaced by another meanwhile: run the same again")
                _sync(work.path)
            except BaseException:
                work.remove()
                raise
            work.become(out)
    finally:
        generation.close()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
