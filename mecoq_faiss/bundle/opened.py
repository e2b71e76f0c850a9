"""A bundle that stays open: checked once, searched many times, from many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import ArrayLike

from mecoq_faiss.bundle.encoder import Encoder
from mecoq_faiss.bundle.folder import read_manifest
from mecoq_faiss.bundle.generation import Generation, Hit
from mecoq_faiss.bundle.hub import local_folder, on_hub
from mecoq_faiss.data.sources import open_images
from mecoq_faiss.runtime.missing import needing_torch

if TYPE_CHECKING:
    import torch


class Bundle:
    """An open bundle; `open_bundle` opens one.

    Every method may be called from any thread. What it shows is of one export, also where another was put in its place:
    that one is taken up by `reload`.

    Example:
        >>> from mecoq_faiss import open_bundle
        >>> with open_bundle("bundle") as bundle:
        ...     [hits] = bundle.search("query.png", k=3)
        ...     assert bundle.paths([hit.row for hit in hits]) == [hit.path for hit in hits]
    """

    def __init__(
        self,
        path: str | Path,
        device: str | torch.device = "auto",
        runtime: str = "torch",
        opener: Callable[[Path, str | torch.device, str], Generation] = Generation,
    ) -> None:
        self.path, self._remote = local_folder(path), str(path) if on_hub(path) else None
        self._device, self._runtime, self._opener = device, runtime, opener
        self._lock, self._one_reload = threading.Lock(), threading.Lock()
        self._open: Generation | None = opener(self.path, device, runtime)

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of manifest.json."""
        return self._current().manifest

    @property
    def encoder(self) -> Encoder:
        """What turns queries into vectors."""
        return self._current().encoder

    @property
    def index(self) -> faiss.Index:
        """Plain FAISS, as `faiss.read_index` gives it; an IndexIVFPQ with a direct map, for `reconstruct`.

        ValueError for a bundle in shards, which has several: open one of them.
        """
        return self._current().index

    @property
    def top_score(self) -> float | None:
        """The highest score, and the negative of the lowest: M, of additive codes 1; None where scores have none."""
        return self._current().top_score

    def __len__(self) -> int:
        return len(self._current())

    def search(self, queries: Any, k: int | None = None, *, where: ArrayLike | str | None = None) -> list[list[Hit]]:
        """The k best items for each query.

        Args:
            queries: what `Encoder.encode` takes: a path, a file's bytes, a PIL image, an array, ..., or a list of
                these; for a model of features floats, or .npy or .h5 files, every row of which is a query.
            k: results a query, 1 to the number of items; by default 10, or all of a smaller bundle.
            where: which items may be found: a condition in SQL, such as `"year >= 2020 and camera == 'X'"`, of the
                columns `id`, `path`, `label` (the class) and the metadata's (extra: metadata); or (m,) int64, their
                ids, as `Hit.id` shows them; others in it are passed over.

        Returns:
            A list for each query in turn (of one list for a single query): its hits, best first. They are fewer than
            k where the visited lists, or `where`, hold fewer.

        Raises:
            ValueError: k out of range, a condition that is none, a closed bundle, input of another kind;
                `UnreadableImage` (a ValueError) for a file that is no image.
            FileNotFoundError: a path that is not there.
        """
        with self.in_use() as generation:
            return generation.search(queries, k, where)

    def paths(self, rows: ArrayLike) -> list[str]:
        """The paths of some rows (n,), as they were in the source; ValueError for a row that is not there."""
        with self.in_use() as generation:
            return generation.paths(np.asarray(rows))

    def add(self, images: Sequence[str | Path], *, root: str | Path | None = None) -> dict[str, Any]:
        """Add image files, named relative to `root` or as they are given, and take up the new generation.

        What the bundle has under the same path is replaced where the content differs. Returns the counts and raises
        the errors of `mecoq_faiss.add`.
        """
        self._check_ours()
        with needing_torch("adding to a bundle"):
            from mecoq_faiss.bundle.living import follow
        done = follow(self.path, open_images(images, root), whole=False, device=self._device)
        self.reload()
        return done

    def remove(self, ids: ArrayLike) -> dict[str, Any]:
        """Remove the items with these ids (m,) integers, and take up the new generation.

        Returns `removed` and `items`; ValueError for an id that no item has, and nothing is removed then.
        """
        self._check_ours()
        with needing_torch("removing from a bundle"):
            from mecoq_faiss.bundle.living import drop
        done = drop(self.path, np.asarray(ids, np.int64), device=self._device)
        self.reload()
        return done

    def reload(self) -> bool:
        """Take up the bundle that was put in this one's place; True where it is another.

        A search that is under way finishes on the old one; for the time of loading both are in memory. Where the new
        one is damaged or missing, the errors of `open_bundle` are raised, and the old one stays in use.
        """
        with self._one_reload:
            if read_manifest(self.path) == self._current().manifest:  # it holds every file's SHA-256
                return False
            new = self._opener(self.path, self._device, self._runtime)
            with self._lock:
                closed = self._open is None
                old, self._open = self._open, None if closed else new
                idle = new if closed else old if old is not None and not old.users else None
            if idle is not None:
                idle.close()
            if closed:
                self._current()  # says so
            return True

    def close(self) -> None:
        """Let go of the files, after the searches that are under way. A second time does nothing."""
        with self._lock:
            old, self._open = self._open, None
            idle = old is not None and not old.users
        if old is not None and idle:
            old.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_ours(self) -> None:
        if self._remote is not None:
            mend = "download it into a folder (`hf download ORG/NAME --local-dir bundle`) and open that"
            raise ValueError(f"{self._remote} is read from a cache: {mend}")

    def _current(self) -> Generation:
        generation = self._open
        if generation is None:
            raise ValueError(f"the bundle {self.path} is closed: open it again with open_bundle")
        return generation

    @contextmanager
    def in_use(self) -> Iterator[Generation]:
        """The export in use, which stays open until the block ends."""
        with self._lock:
            generation = self._current()
            generation.users += 1
        try:
            yield generation
        finally:
            with self._lock:
                generation.users -= 1
                last = not generation.users and generation is not self._open
            if last:
                generation.close()


def open_bundle(path: str | Path, device: str | torch.device = "auto", runtime: str = "torch") -> Bundle:
    """Open a bundle for many searches: all files of one export, checked against its manifest once.

    A bundle in shards is searched as the one index of all items would be: the same hits in the same order.

    Args:
        path: its folder, or `hf://ORG/NAME[@REVISION]` on the Hugging Face Hub (extra: hub): it is downloaded into
            that library's cache, and cannot be changed there.
        device: where the encoder runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.
        runtime: what computes the queries: `torch`, or `onnx` of a bundle that was exported with `--onnx`, which needs
            no torch (extra: onnx); see `load_encoder`.

    Raises:
        FileNotFoundError: no bundle there.
        ValueError: a damaged bundle, or one of a newer version or without encoder.onnx; the device is not there.
        ImportError: the runtime is not installed.

    Example:
        >>> from mecoq_faiss import open_bundle
        >>> bundle = open_bundle("bundle")
        >>> [[hit.rank for hit in hits] for hits in bundle.search(["query.png"], k=3)]
        [[1, 2, 3]]
    """
    return Bundle(path, device, runtime)
