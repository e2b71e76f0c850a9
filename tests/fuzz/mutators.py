"""Mutations that keep a file's shell whole (lengths, checksums, CRCs), so that what is altered lies behind the door.

Each takes the bytes, a source of chance, and the fuzzer's own mutation of plain bytes; a file that has lost its shape
is mutated as plain bytes.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import lzma
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from mecoq_faiss.storage.hdf5_file import HEAP, is_endless
from tests.fuzz.words import SETTINGS, TOML_VALUES, WORDS

Plain = Callable[[bytes], bytes]
Mutator = Callable[[bytes, random.Random, Plain], bytes]
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 8, 255, 256, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 0.0, -0.5, 1e308,
    "", "x", "../x", "/etc/passwd", "a\nb", "\x1b[2J", "\ud800", "é" * 50, [], [1], [[]], {}, {"a": 1}, [0, 2**62],
]  # fmt: skip


def plain_only(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """No shell to keep."""
    return plain(data)


def as_json(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """Another value, one less, or one under another name, anywhere in a JSON text."""
    try:
        content = json.loads(data)
        if not isinstance(content, dict | list) or rng.random() < 0.15:
            return plain(data)
        return json.dumps(changed(content, rng)).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return plain(data)


def changed(content: Any, rng: random.Random) -> Any:
    """JSON content with one place altered."""
    content = copy.deepcopy(content)
    nodes = [content]
    for node in nodes:
        inner = node.values() if isinstance(node, dict) else node
        nodes += [value for value in inner if isinstance(value, dict | list) and value]
    node = rng.choice(nodes)
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key, way = rng.choice(keys) if keys else None, rng.random()
    if key is None or way < 0.1:
        added = rng.choice(ODD)
        if isinstance(node, dict):
            node[str(rng.choice(ODD))] = added
        else:
            node.append(added)
    elif way < 0.3:
        del node[key]
    elif way < 0.5 and type(node[key]) in (int, float):
        node[key] = node[key] * rng.choice([-1, 2, 10, 0.5]) + rng.choice([-1, 0, 1])
    elif way < 0.7:
        other = rng.choice(nodes)
        node[key] = copy.deepcopy(other[rng.choice(list(other) if isinstance(other, dict) else range(len(other)))])
    else:
        node[key] = rng.choice(ODD)
    return content


def as_zip(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """One member altered or renamed, the directory and the CRCs made to fit."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    except Exception:
        return plain(data)
    if not members or rng.random() < 0.15:
        return plain(data)
    i = next((i for i, (name, _) in enumerate(members) if name.endswith("data.pkl")), 0)
    i = i if rng.random() < 0.7 else rng.randrange(len(members))
    name, content = members[i]
    way = rng.random()
    if way < 0.05:
        members[i] = (plain(name.encode()).decode(errors="replace").replace("\0", ""), content)
    elif way < 0.1:
        del members[i]
    else:
        members[i] = (name, plain(content))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED if way < 0.97 else zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def as_safetensors(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """Another header of the right length, or other tensors."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    if len(header) != length or rng.random() < 0.1:
        return plain(data)
    if rng.random() < 0.8:
        header = as_json(header, rng, plain)
    else:
        body = plain(body)
    return len(header).to_bytes(8, "little") + header + body


PACKED = ((b"\x1f\x8b", gzip.compress, gzip.decompress), (b"\xfd7z", lzma.compress, lzma.decompress))
FIELDS = ((0, 100), (100, 108), (124, 136), (136, 148), (156, 157), (157, 257), (345, 500), (482, 512))  # of a header
DTYPES = ("<f4", "<f2", "<i8", ">i8", "|u1", "|O", "<U9", "|V0", "<M8[s]", "(2,)<i8", "<f16", "|S99999")


def as_tar(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """A header's field altered under a checksum that fits; packed again where it was packed."""
    for packed, pack, unpack in (
        (b"\x1f\x8b", gzip.compress, gzip.decompress),
        (b"\xfd7z", lzma.compress, lzma.decompress),
    ):
        if data.startswith(packed):
            try:
                return pack(as_tar(unpack(data), rng, plain)) if rng.random() < 0.7 else plain(data)
            except Exception:
                return plain(data)
    headers = [i for i in range(0, len(data) - 511, 512) if data[i + 257 : i + 262] == b"ustar"]
    if not headers or rng.random() < 0.2:
        return plain(data)
    start = rng.choice(headers)
    block = bytearray(data[start : start + 512])
    low, high = rng.choice(FIELDS)
    field = plain(bytes(block[low:high]))[: high - low].ljust(high - low, b"\0")
    if (low, high) == (156, 157) and rng.random() < 0.7:
        field = rng.choice([b"0", b"1", b"2", b"3", b"5", b"6", b"S", b"L", b"K", b"x", b"g", b"7"])
    if (low, high) == (124, 136) and rng.random() < 0.5:
        field = rng.choice([b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"%011o\0" % rng.randrange(2**33)])
    block[low:high] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) & 0o777777)
    return data[:start] + bytes(block) + data[start + 512 :]


def as_npy(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """Another header text of the right length."""
    length = int.from_bytes(data[8:10], "little")
    if data[:6] != b"\x93NUMPY" or rng.random() < 0.2:
        return plain(data)
    header, body = data[10 : 10 + length], data[10 + length :]
    if rng.random() < 0.5:
        shape = tuple(rng.choice([0, 1, 2, 3, 50, 2**31, 2**62, 2**64, -1]) for _ in range(rng.randrange(4)))
        dtype = rng.choice(DTYPES)
        header = repr({"descr": dtype, "fortran_order": rng.random() < 0.3, "shape": shape}).encode() + b"\n"
    else:
        header = plain(header)
    version = data[6:8] if rng.random() < 0.9 else bytes([rng.randrange(5), 0])
    size = 2 if version == b"\x01\x00" else 4
    return data[:6] + version + len(header).to_bytes(size, "little") + header + body


def as_image(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """Plain bytes; a PNG's CRCs are made to fit."""
    data = plain(data)
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, place = data[:8], 8
    while place + 12 <= len(data):
        length = struct.unpack(">I", data[place : place + 4])[0]
        chunk = data[place + 4 : place + 8 + length]
        if len(chunk) < 4 + length:
            break
        out += struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + length
    return out + data[place:]


def as_hdf5(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """A dataset of a valid file exchanged for another thing of its name, by HDF5 itself; or plain bytes."""
    heaps = [place for place in range(0, len(data), 8) if data.startswith(HEAP, place)]
    if rng.random() < 0.6 or any(is_endless(data[place:]) for place in heaps):  # HDF5 would not come back
        return plain(data)
    held = io.BytesIO(data)
    try:
        with h5py.File(held, "r+") as file:
            name = rng.choice([*file, "labels", "codes", "paths"])
            if name in file:
                del file[name]
            if rng.random() < 0.9:
                _odd_dataset(file, name, rng)
            if rng.random() < 0.2:
                file.attrs[rng.choice(["key", "class_names", "nbits", "sha256"])] = rng.choice(
                    ["{}", "[" * 5000, 3, [1, 2], ["a"], b"\xff", h5py.Empty("i8"), 8, 2.5, np.zeros((2, 2))]
                )
    except Exception:
        return plain(data)
    return held.getvalue()


def _odd_dataset(file: h5py.File, name: str, rng: random.Random) -> None:
    shape = rng.choice([(), (0,), (3,), (60,), (60, 2), (60, 1), (1,), (60, 2, 2), (2**40,), (2**31, 2), (1000, 1000)])
    dtype = rng.choice(["u1", "i8", "f4", ">i8", "S3", "S0", "f2", "c8", "?", "i4", h5py.string_dtype(), [("a", "i4")],
                        h5py.vlen_dtype("i4"), h5py.ref_dtype, "(2,)i4", h5py.enum_dtype({"a": 1})])  # fmt: skip
    way = rng.random()
    if way < 0.1:
        file[name] = h5py.ExternalLink("/etc/passwd", "/x")
    elif way < 0.2:
        file[name] = h5py.SoftLink("/" + rng.choice([name, "codes", "nowhere"]))
    elif way < 0.25:
        file.create_group(name)
    elif way < 0.35:
        file.create_dataset(name, (3,), dtype="i8", external=[("/etc/passwd", 0, 24)])
    elif way < 0.45:
        layout = h5py.VirtualLayout(shape=(60,), dtype="i8")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(60,))
        file.create_virtual_dataset(name, layout)
    elif way < 0.7:
        chunks = rng.choice([True, (1,) * len(shape)]) if shape and 0 not in shape else None
        file.create_dataset(name, shape, dtype=dtype, chunks=chunks, compression="gzip" if chunks else None)
    elif way < 0.75:
        file[name] = h5py.Empty("f4")
    else:
        file.create_dataset(name, shape, dtype=dtype)


def as_arguments(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """NUL-separated words of a command line: one more, less or altered."""
    words = data.split(b"\0")
    i, way = rng.randrange(len(words)), rng.random()
    if way < 0.3:
        words.insert(i + 1, rng.choice(WORDS).encode("utf-8", "surrogateescape"))
    elif way < 0.5:
        words[i] = rng.choice(WORDS).encode("utf-8", "surrogateescape")
    elif way < 0.65 and len(words) > 1:
        del words[i]
    elif way < 0.75:
        words.append(words[i])
    else:
        words[i] = plain(words[i]).replace(b"\0", b"")
    return b"\0".join(words)


def as_toml(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """One line for another: a setting with a strange value."""
    lines = data.split(b"\n")
    if rng.random() < 0.4:
        return plain(data)
    value = rng.choice(TOML_VALUES)
    lines[rng.randrange(len(lines))] = f"{rng.choice(SETTINGS)} = {value}".encode()
    if rng.random() < 0.3:
        lines.insert(rng.randrange(len(lines)), f"{rng.choice(SETTINGS)} = {rng.choice(TOML_VALUES)}".encode())
    return b"\n".join(lines)
