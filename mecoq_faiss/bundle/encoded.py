"""The encoded file: embeddings, codes, ids, paths and labels of a source in one HDF5 file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mecoq_faiss.bundle.embedding import check_fits, embed_batches, model_fingerprint
from mecoq_faiss.bundle.encoder import ENCODE_BATCH
from mecoq_faiss.bundle.folder import ITEMS, is_bundle, open_items, verify_files
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.sources import Source
from mecoq_faiss.index.codes import decode_codes, sum_codes
from mecoq_faiss.runtime.progress import progress
from mecoq_faiss.storage.files import check_writable_parent
from mecoq_faiss.storage.hdf5 import damaged_dataset
from mecoq_faiss.storage.hdf5_checked import one_line
from mecoq_faiss.storage.shards import Arrays, Shards, finished, has_shards, map_array, read_key, write_in_shards

logger = logging.getLogger("mecoq_faiss")
SHARD_ROWS = 8192
FORMAT = 1


class Encoding:
    """What the encoded file of a source is made of, batch by batch."""

    def __init__(self, encoder: TorchEncoder, source: Source, embeddings: str | None, workers: int = -1) -> None:
        self.encoder, self.source, self.embeddings, self.workers = encoder, source, embeddings, workers
        self.num_batches = -(-len(source) // ENCODE_BATCH)

    @property
    def key(self) -> dict[str, Any]:
        """What the content depends on."""
        model = model_fingerprint(self.encoder)
        return {"format": FORMAT, "model": model, "data": self.source.fingerprint, "embeddings": self.embeddings}

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the file, beside the key."""
        config = self.encoder.model.config
        return {"class_names": list(self.source.class_names), "D": config.D, "nbits": config.nbits}

    def batches(self, start: int, stop: int | None = None) -> Iterator[Arrays]:
        """The arrays of each batch from number `start` on, to before `stop` or to the end."""
        encoder, codebooks, D = self.encoder, self.encoder.codebooks, self.encoder.model.config.D
        for rows, z in embed_batches(encoder, self.source, start, self.workers, stop):
            codes = encoder.codes(z)
            error = quantization_error(codebooks, codes, z, additive=encoder.is_additive)
            yield _arrays(self.source, rows, codes, z[:, :D], self.embeddings) | {"error": error}


Maker = Callable[[Encoding, Shards, list[int]], dict[int, Path]]


def encode_source(
    encoder: TorchEncoder,
    source: Source,
    out: str | Path,
    *,
    embeddings: str | None = "float16",
    workers: int = -1,
    make: Maker | None = None,
) -> int:
    """Encode every readable image of a source into the file `out`.

    The file holds `codes` (n, M) uint8, `embeddings` (n, D) segment-normalised (of additive
    codes of norm 1 as a whole), `ids` (n,) int64 (the source's rows),
    `paths` (n,) and, where there are any, `labels` (n,) int64 or (n, L) uint8. By `size` (bytes), `mtime_ns` and
    `sha256` (n, 32) uint8 an update knows an image again; `error` is `quantization_error`. It is written in shards
    that a killed run continues; memory does not grow with n.

    Args:
        encoder: what encodes.
        source: images, or features of the width that the model takes.
        out: the .h5 file; refused where it exists.
        embeddings: `float16`, `float32`, or None to leave them out.
        workers: processes that decode images, -1 chooses.
        make: writes the shards elsewhere than in this process; see `write_in_shards`.

    Returns:
        n, the number of rows written.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.
    """
    out = Path(out)
    check_target(out, embeddings)
    check_fits(encoder, source)
    encoding = Encoding(encoder, source, embeddings, workers)
    key, num_batches = encoding.key, encoding.num_batches
    if finished(out, key):
        return len(map_array(out, "ids"))
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another file")

    def batches(start: int) -> Iterator[Arrays]:
        return progress(encoding.batches(start), total=num_batches, initial=start, label="encoding", unit="batches")

    write_in_shards(
        out,
        batches,
        num_batches,
        SHARD_ROWS // ENCODE_BATCH,
        key,
        encoding.attributes,
        require="codes",
        make=None if make is None else partial(make, encoding),
    )
    n = len(map_array(out, "ids"))
    if n < len(source):
        logger.warning("%d of %d images cannot be read", len(source) - n, len(source))
    return n


def check_target(out: Path, embeddings: str | None) -> None:
    """FileExistsError, ValueError or OSError where such a file cannot be written, before any work."""
    if out.exists() and not has_shards(out):
        raise FileExistsError(f"{out} exists: choose another file")
    if embeddings not in (None, "float16", "float32"):
        raise ValueError(f"embeddings={embeddings!r}: choose float16, float32 or None")
    check_writable_parent(out)


def quantization_error(codebooks: np.ndarray, codes: np.ndarray, z: np.ndarray, additive: bool = False) -> np.ndarray:
    """Mean squared distance of segments of norm 1 from their codewords, (n,) float32 in [0, 4].

    Codebooks (M, K, d), codes (n, M) uint8, embeddings (n, M * d) as `Encoder.encode` gives them. Of `additive` codes
    the squared distance of the embedding, of norm 1, from the sum.
    """
    if additive:
        return ((z[:, : codebooks.shape[2]] - sum_codes(codebooks, codes)) ** 2).sum(axis=1)
    return ((z - decode_codes(codebooks, codes)) ** 2).sum(axis=1) / len(codebooks)


def _arrays(source: Source, rows: np.ndarray, codes: np.ndarray, z: np.ndarray, embeddings: str | None) -> Arrays:
    arrays: dict[str, Any] = {
        "codes": codes,
        "ids": rows.astype(np.int64),
        "paths": np.array([source.paths[row] for row in rows], dtype=object),
    }
    arrays |= stamps(source, rows)
    if embeddings:
        arrays["embeddings"] = z.astype(embeddings)
    if source.labels is not None:
        arrays["labels"] = source.labels[rows]
    return arrays


def stamps(source: Source, rows: np.ndarray) -> Arrays:
    """By what rows of a source are known again: `size` (m,) int64, `mtime_ns` (m,) int64, `sha256` (m, 32) uint8."""
    sizes = np.array([source.size_and_time(row) for row in rows.tolist()], np.int64).reshape(-1, 2)
    digests = b"".join(source.digest(row) for row in rows.tolist())
    return {
        "size": sizes[:, 0],
        "mtime_ns": sizes[:, 1],
        "sha256": np.frombuffer(digests, np.uint8).reshape(-1, 32),
    }


def count_codes(codes: Path, encoder: TorchEncoder) -> int:
    """Rows of an encoded file, which must be this model's and whole."""
    if not codes.is_file():
        raise FileNotFoundError(f"no file {codes}: make it with mecoq-faiss encode")
    key = read_key(codes)
    if key is None or "model" not in key:
        raise ValueError(f"{codes} is not a file of codes: make it with mecoq-faiss encode")
    if key["model"] != model_fingerprint(encoder):
        raise ValueError(
            f"{codes} was encoded with another model: give the run that made it, or encode the images anew"
        )
    if codes.name == ITEMS and is_bundle(codes.parent):
        verify_files(codes.parent, (ITEMS,))
    try:
        name = damaged_dataset(codes)
    except OSError as error:
        raise ValueError(f"{codes} is damaged ({one_line(error)}): encode the images anew") from error
    if name:
        raise ValueError(f"{codes} is damaged, its {name} do not match their checksum: encode the images anew")
    with open_items(codes) as items:
        return len(items["codes"])
