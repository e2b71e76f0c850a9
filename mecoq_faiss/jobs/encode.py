"""The whole encoding job: a model and a source -> embeddings, codes, ids, paths and labels in one HDF5 file."""

from __future__ import annotations

from pathlib import Path

import torch

from mecoq_faiss.bundle.encoded import check_target, encode_source
from mecoq_faiss.bundle.encoder import load_encoder
from mecoq_faiss.bundle.engine import Engine
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.sources import Source, as_source


def encode(
    model: str | Path | TorchEncoder,
    data: str | Path | Source,
    out: str | Path,
    *,
    split: str = "database",
    embeddings: str | None = "float16",
    workers: int = -1,
    device: str | torch.device = "auto",
    engine: Engine | None = None,
) -> int:
    """Encode every readable image of a source.

    The file holds `codes` (n, M) uint8, `embeddings` (n, D) segment-normalised, `ids` (n,) int64 (the source's rows),
    `paths` (n,) and, where there are any, `labels` (n,) int64 or (n, L) uint8. It is written in shards that a killed
    run continues; memory does not grow with n.

    Args:
        model: a run folder, a bundle, or an encoder.
        data: a source or its name.
        out: the .h5 file; refused where it exists.
        split: of a built-in protocol `train`, `queries` or `database`.
        embeddings: `float16`, `float32`, or None to leave them out.
        workers: processes that decode images, -1 chooses.
        device: where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device;
            of an encoder, its own.
        engine: encodes by other processes; `mecoq_faiss.cluster` has one.

    Returns:
        n, the number of rows written.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.

    Example:
        >>> from mecoq_faiss import encode
        >>> encode("run", "photos", "codes.h5")
        20
    """
    out = Path(out)
    check_target(out, embeddings)
    encoder = model if isinstance(model, TorchEncoder) else load_encoder(model, device)
    source = as_source(data, split)
    make = None if engine is None else engine.write_shards
    return encode_source(encoder, source, out, embeddings=embeddings, workers=workers, make=make)
