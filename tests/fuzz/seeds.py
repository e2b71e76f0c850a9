"""Small valid inputs of each reader."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from tests.python2_pickle import python2_pickle

OLD = Path(__file__).parents[1] / "version_0_1"
KINDS = ("pq", "pqfs", "ivfpq")


def _old(*names: str) -> list[bytes]:
    """Files that version 0.1 wrote, small ones."""
    return [(OLD / name).read_bytes() for name in names]


def indexes() -> list[bytes]:
    """One of each kind."""
    return [
        bytes([number]) + content for number, content in enumerate(_old(*(f"bundle-{k}/index.faiss" for k in KINDS)))
    ]


def items_files() -> list[bytes]:
    """In HDF5's first format, whose headers have no checksums, and in the one that is written."""
    from mecoq_faiss.storage.hdf5 import SHA256

    held = io.BytesIO()
    with h5py.File(held, "w", libver="earliest") as file:
        file["codes"] = np.arange(8, dtype=np.uint8).reshape(4, 2)
        file["ids"] = np.arange(4)
        file["labels"] = np.array([0, 1, 0, 1])
        file.create_dataset("paths", data=["a/1.png", "b/2.png", "a/3.png", "é"], dtype=h5py.string_dtype())
        file.attrs.update(
            {"nbits": 8, "D": 8, "class_names": ["a", "b"], "key": '{"format": 1}', SHA256: '{"ids": "0"}'}
        )
    return [held.getvalue(), *_old("encoded.h5", "bundle-pq/items.h5")]


def features_files() -> list[bytes]:
    """Contiguous and chunked ones."""
    files = []
    for chunks in (None, (3, 4)):
        held = io.BytesIO()
        with h5py.File(held, "w", libver="earliest") as file:
            values = np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4)
            file.create_dataset("features", data=values, chunks=chunks, compression="gzip" if chunks else None)
            file.create_dataset("paths", data=[f"{i}.png" for i in range(6)], dtype=h5py.string_dtype())
            file["labels"] = [0, 1, 2, 0, 1, 2] if chunks else np.eye(6, dtype=np.uint8)[:, :3]
            file.create_dataset("class_names", data=["a", "b", "c"], dtype=h5py.string_dtype())
        files.append(held.getvalue())
    return files


def _npy(*arrays: np.ndarray) -> list[bytes]:
    """As numpy writes them."""
    files = []
    for array in arrays:
        held = io.BytesIO()
        np.save(held, array)
        files.append(held.getvalue())
    return files


def weights_files() -> list[bytes]:
    """Of both kinds, with a head that is cut."""
    import torch
    from safetensors.torch import save

    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = {**net.state_dict(), "head.weight": torch.zeros(1)}
    held = io.BytesIO()
    torch.save(state, held)
    return [b"s" + save(state), b"p" + held.getvalue()]


def images() -> list[bytes]:
    """One of each decoder's, and some of their other modes."""
    pixels = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)
    rgb = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    kinds: tuple[tuple[Image.Image, str, dict[str, Any]], ...] = (
        *((rgb, kind, {}) for kind in ("BMP", "GIF", "PNG", "WEBP", "TIFF")),
        (rgb, "JPEG", {"exif": exif}), (rgb, "TIFF", {"compression": "tiff_lzw"}), (rgb.convert("I;16"), "PNG", {}),
        (rgb.convert("RGBA"), "PNG", {}), (rgb.convert("P"), "PNG", {}), (rgb.convert("1"), "TIFF", {}),
        (rgb.convert("CMYK"), "JPEG", {"progressive": True}),
    )  # fmt: skip
    for picture, kind, more in kinds:
        held = io.BytesIO()
        picture.save(held, kind, **more)
        found.append(held.getvalue())
    return found


def tars() -> list[bytes]:
    """In the three formats of headers, and packed."""
    import gzip
    import lzma
    import tarfile

    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w", format=form) as archive:
            for name in ("a/1.png", "b/" + "x" * 60 + "/é.gif" if form != tarfile.USTAR_FORMAT else "b/2.gif"):
                member = tarfile.TarInfo(name)
                content = images()[2 if name.endswith("png") else 1]
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        found.append(held.getvalue()[: -8 * 512])
    return [*found, gzip.compress(found[0]), lzma.compress(found[1])]


def cifar_batches() -> list[bytes]:
    """One image."""
    batch = {"data": np.zeros((1, 3072), np.uint8), "labels": [1], "filenames": ["x.png"]}
    return [b"\x80\x02" + python2_pickle(batch) + b"."]


def manifests() -> list[bytes]:
    """One of each kind."""
    return _old(*(f"bundle-{kind}/manifest.json" for kind in KINDS))


def configs() -> list[bytes]:
    """Of a run, of an encoder."""
    return _old("run/config.json", "bundle-pq/encoder/config.json")


def records() -> list[bytes]:
    """The first lines of metrics.jsonl."""
    return [b"".join(_old("run/metrics.jsonl")[0].splitlines(True)[:4])]


def splits() -> list[bytes]:
    """Of a run on features."""
    return _old("run/split.json")


def settings() -> list[bytes]:
    """Settings of a model and of a training."""
    return [
        b"[model]\nbackbone = 'pixels'\nimage_size = 8\nD = 16\nM = 4\n[train]\nepochs = 2\njitter = [0.4, 0, 0, 0.1]\n"
    ]


def npy_features() -> list[bytes]:
    """Of one view, of two."""
    values = np.linspace(0, 1, 24, dtype=np.float32)
    return _npy(values.reshape(6, 4), values.reshape(3, 2, 4))


def npy_rows() -> list[bytes]:
    """Rising rows."""
    return _npy(np.array([0, 2, 5]))


def npy_ids() -> list[bytes]:
    """Ids of four items."""
    return _npy(np.array([3, 1, 2, 9]))


def checkpoints() -> list[bytes]:
    """Of a training that was stopped."""
    return _old("run-stopped/last.pt")


def models() -> list[bytes]:
    """Of a run."""
    return _old("run/model.safetensors")
