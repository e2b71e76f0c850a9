"""python2_pickle(): a pickle as Python 2 wrote it."""

from __future__ import annotations

import struct
from typing import Any


def python2_pickle(value: Any) -> bytes:
    """The opcodes by which Python 2 wrote CIFAR-10's batches: byte strings and numpy's old module names."""
    if isinstance(value, dict):
        return b"}" + b"".join(python2_pickle(k) + python2_pickle(v) + b"s" for k, v in value.items())
    if isinstance(value, list):
        return b"](" + b"".join(map(python2_pickle, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        return b"T" + struct.pack("<i", len(value)) + value.encode("latin1")
    shape = b"(" + b"".join(map(python2_pickle, value.shape)) + b"t"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = python2_pickle(value.tobytes().decode("latin1"))
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"
