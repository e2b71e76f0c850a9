"""Exporting on Ray: images -> the same bundle that one machine makes, its shards built side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mecoq_faiss.cluster.engine import RayEngine
from mecoq_faiss.jobs.export_index import export_index as export_here


def export_index(
    run: str | Path,
    data: str | Path | None,
    out: str | Path,
    *,
    ray: str = "local",
    device: str = "auto",
    **options: Any,
) -> dict[str, Any]:
    """Encode a database, build its index, or its shards, and prove it, by the workers of a Ray.

    Index and items are those of `mecoq_faiss.export_index`, to the bit where that computes with one thread
    (OMP_NUM_THREADS=1), on any number of workers and nodes. Encoding, and the shards of `shards=N`, are divided among
    the workers; one index without shards is built here.

    Args:
        run: a run folder or a bundle.
        data: the name of a source, the same on all nodes; None with `codes`.
        out: the new bundle's folder, where all nodes see it under this name; refused where it exists.
        ray: `local` (a Ray on this machine, for this call), `auto`, or the HOST:PORT of a cluster of which this machine
            is a node.
        device: where images are encoded: `auto` (GPUs, if the cluster has any), `cpu` or `cuda`.
        **options: the others of `mecoq_faiss.export_index`.

    Returns:
        The manifest.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.
        VerificationError: the index does not match the model; no bundle is left.
        ImportError: no Ray (extra: cluster).
        ConnectionError: no cluster at the address.
    """
    if "://" in str(out):
        raise ValueError(f"{out} is a URL: give a folder that all nodes see, and copy the bundle afterwards")
    with RayEngine(ray, data, device=device) as engine:
        return export_here(run, data, out, device="cpu" if device == "cpu" else "auto", engine=engine, **options)
