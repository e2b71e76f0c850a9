"""CIFAR-10's own files (``cifar-10-batches-py``), which are pickles, read without running anything in them."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from mecoq_faiss.data.stores import ArrayStore
from mecoq_faiss.storage.files import read_small

_TRAIN = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
_MOST_BYTES = 1 << 28  # of a file; they take 31 MB


def _reconstruct(*_: Any) -> np.ndarray:
    """An empty array, whose shape and content the pickle sets next; numpy checks the one against the other."""
    return np.empty(0)


_CALLABLE: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): None,  # an argument of _reconstruct; called, it would allocate any shape
    ("numpy", "dtype"): np.dtype,
}


def read_cifar10_batches(folder: Path) -> ArrayStore:
    """All images, named ``train/CLASS/FILE`` or ``test/CLASS/FILE`` and sorted by name.

    Raises:
        ValueError: a file is missing, damaged, or not what CIFAR-10 holds; the message names it.
    """
    class_names = _read(folder / "batches.meta", label_names=list)["label_names"]
    names: list[str] = []
    pixels = []
    for part in (*_TRAIN, "test_batch"):
        batch = _read(folder / part, data=np.ndarray, labels=list, filenames=list)
        side = "train" if part in _TRAIN else "test"
        try:
            if batch["data"].dtype != np.uint8:
                raise ValueError(f"pixels of type {batch['data'].dtype}")
            pixels.append(batch["data"].reshape(len(batch["labels"]), 3, 32, 32).transpose(0, 2, 3, 1))
            for label, name in zip(batch["labels"], batch["filenames"], strict=True):
                names.append(f"{side}/{class_names[label]}/{name}")
        except (ValueError, IndexError, TypeError) as error:
            raise ValueError(f"{folder / part}: not a batch of CIFAR-10 ({error}); get a whole copy") from None
    order = sorted(range(len(names)), key=names.__getitem__)
    return ArrayStore(tuple(names[i] for i in order), np.concatenate(pixels)[order])


class _ArrayUnpickler(pickle._Unpickler):  # in Python: the one in C allocates what a damaged pickle asks for
    """Reads dicts, lists, strings and numpy arrays, and can call nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CALLABLE:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}")
        return _CALLABLE[module, name]


def _read(path: Path, **wanted: type) -> dict[str, Any]:
    try:
        content = _ArrayUnpickler(BytesIO(read_small(path, _MOST_BYTES)), encoding="latin1").load()
        for key, kind in wanted.items():
            if not isinstance(content[key], kind):
                raise ValueError(f"{key} is no {kind.__name__}")
    except Exception as error:  # a damaged pickle lets out nearly any exception
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"{path}: not a file of CIFAR-10 ({reason}); get a whole copy") from None
    return content
