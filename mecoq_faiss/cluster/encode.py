"""Encoding on Ray: a model and a source -> the same file that one machine makes."""

from __future__ import annotations

from pathlib import Path

from mecoq_faiss.cluster.engine import RayEngine
from mecoq_faiss.cluster.store import Store
from mecoq_faiss.jobs.encode import encode as encode_here


def encode(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    ray: str = "local",
    split: str = "database",
    embeddings: str | None = "float16",
    device: str = "auto",
) -> int:
    """Encode every readable image of a source by the workers of a Ray.

    The file is that of `mecoq_faiss.encode`, to the bit where that computes with one thread (OMP_NUM_THREADS=1), on any
    number of workers and nodes. A stopped run is continued with Ray or without.

    Args:
        model: a run folder, a bundle, or an encoder.
        data: the name of a source, the same on all nodes.
        out: the .h5 file, in a folder that all nodes see under this name, or a URL of fsspec, such as
            s3://bucket/codes.h5, that all nodes can write; refused where it exists.
        ray: `local` (a Ray on this machine, for this call), `auto`, or the HOST:PORT of a cluster of which this machine
            is a node.
        split: of a built-in protocol `train`, `queries` or `database`.
        embeddings: `float16`, `float32`, or None to leave them out.
        device: `auto` (GPUs, if the cluster has any), `cpu` or `cuda`.

    Returns:
        n, the number of rows written.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.
        ImportError: no Ray (extra: cluster).
        ConnectionError: no cluster at the address.
    """
    store = Store(str(out)) if "://" in str(out) else None

    def make(file: Path) -> int:
        with RayEngine(ray, data, split, device, store) as engine:
            return encode_here(model, data, file, split=split, embeddings=embeddings, device="cpu", engine=engine)

    return make(Path(out)) if store is None else store.made(make)
