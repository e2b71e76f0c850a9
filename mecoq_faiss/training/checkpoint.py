"""Checkpoint: what `torch.save` wrote, described before a tensor is read, so that it can be refused first."""

from __future__ import annotations

import math
import os
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import torch
from torch import Tensor

_MOST_PICKLE = 1 << 26  # bytes; a parameter takes some hundred
_STORAGES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a checkpoint, not read yet."""

    key: str  # of the record that holds its elements
    count: int  # elements in that record
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


# Not torch.load: it takes a record's size from the pickle, and would read or allocate whatever that says.
class Checkpoint:
    """The content of an open checkpoint, with a `StoredTensor` for each tensor.

    Raises:
        ValueError: not what `torch.save` writes of dicts, lists, numbers, strings and tensors; compressed, or larger
            than its file says.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._archive = zipfile.ZipFile(file)
        members = {member.filename: member for member in self._archive.infolist()}
        total = os.fstat(file.fileno()).st_size
        for member in members.values():
            if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                raise ValueError(f"its member {member.filename!r} is compressed")
        if sum(member.file_size for member in members.values()) > total or len(members) < len(self._archive.infolist()):
            raise ValueError("its members overlap")
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1 or members[pickles[0]].file_size > _MOST_PICKLE:
            raise ValueError("not one data.pkl of a fitting size")
        self._root = pickles[0].removesuffix("data.pkl")
        order = members.get(self._root + "byteorder")
        if order is not None and (order.file_size > 6 or self._archive.read(order) != b"little"):
            raise ValueError("not in little-endian byte order")
        self._members, self._records = members, dict[str, bytearray]()
        self.content: Any = _Unpickler(BytesIO(self._archive.read(pickles[0]))).load()

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor.

        Raises:
            ValueError: its record is missing or of another size.
            zipfile.BadZipFile: its record is damaged.
        """
        member = self._members.get(f"{self._root}data/{stored.key}")
        size = stored.count * stored.dtype.itemsize
        if member is None or member.file_size != size:
            raise ValueError(f"record {stored.key!r} is missing or not of {size} bytes")
        last = stored.offset + sum((n - 1) * step for n, step in zip(stored.shape, stored.stride, strict=True))
        if math.prod(stored.shape) > stored.count or (0 not in stored.shape and last >= stored.count):
            raise ValueError(f"a tensor of shape {stored.shape} reaches beyond record {stored.key!r}")
        if size == 0:
            return torch.empty(stored.shape, dtype=stored.dtype)
        if stored.key not in self._records:  # once, however many tensors share it
            self._records[stored.key] = bytearray(self._archive.read(member))  # torch wants memory that can be written
        whole = torch.frombuffer(self._records[stored.key], dtype=stored.dtype)
        return whole.as_strided(stored.shape, stored.stride, stored.offset)


def _stored(
    storage: tuple[str, str, int], offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *more: Any
) -> StoredTensor:
    key, kind, count = storage
    numbers = (count, offset, *shape, *stride)
    if len(shape) != len(stride) or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise pickle.UnpicklingError("a tensor's shape is none")
    return StoredTensor(key, count, _STORAGES[kind], offset, tuple(shape), tuple(stride))


class _Unpickler(pickle._Unpickler):  # in Python: the one in C allocates what a damaged pickle asks for
    """Reads dicts, lists, numbers, strings and descriptions of tensors, and can call nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _stored
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[str, str, int]:
        kind, storage, key, _, count = pid
        if kind != "storage" or storage not in _STORAGES or type(key) is not str:
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return key, storage, count
