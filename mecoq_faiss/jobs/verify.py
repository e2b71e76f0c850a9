"""The whole job of proving a bundle again: every file against the manifest, the index against the model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mecoq_faiss.bundle.encoder import encoder_in
from mecoq_faiss.bundle.folder import ONNX, Pinned, read_manifest, shard_names
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.bundle.metadata import check_metadata, metadata_in
from mecoq_faiss.bundle.onnx_export import onnx_difference
from mecoq_faiss.bundle.probes import queries_like_codes
from mecoq_faiss.bundle.proof import verify as prove
from mecoq_faiss.bundle.sharded import check_together, each_shard, worst_figures
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.index.inspect import read_codebooks, read_ids
from mecoq_faiss.storage.table import connected


def verify(bundle: str | Path) -> dict[str, Any]:
    """Read all files of a bundle, compare them with its manifest, and run the proof of its export again.

    Of a bundle in shards that is done with each, and what they share is compared; the figures are the worst.

    Returns:
        `files` and `items`, how many there are, and the figures of the proof, as in the manifest's `verification`; with
        encoder.onnx, where onnxruntime is installed, also `max_onnx_difference` of its queries from the model's.

    Raises:
        FileNotFoundError: no bundle there.
        ValueError: a file that is missing, truncated or altered, or an index that is not the one the manifest tells of.
        VerificationError: the index, or the graph, does not compute what the model computes.

    Example:
        >>> from mecoq_faiss import verify
        >>> verify("bundle")["max_score_difference"] < 1e-4
        True
    """
    bundle = Path(bundle)
    manifest = read_manifest(bundle)
    found = [_verified(files) for files in each_shard(bundle, manifest)]
    if "shards" in manifest:
        check_together([bundle / name for name in shard_names(manifest)])
    counts = {name: sum(each[name] for each in found) for name in ("files", "items")}
    return counts | {name: value for name, value in worst_figures(found).items() if name not in counts}


def _verified(files: Pinned) -> dict[str, Any]:
    """What `verify` tells of one folder."""
    for name in files.names:
        files.file(name)
    metadata = metadata_in(files)
    if metadata is not None:
        with connected([metadata.file]) as connection:
            check_metadata(connection, metadata)
    encoder = encoder_in(files, "cpu")
    items = items_in(files)
    index = index_in(files, items)
    codebooks, codes = read_codebooks(index), items.lazy("codes")
    assert codes is not None
    ids = None if read_ids(index) is None else items.lazy("ids")
    xq = queries_like_codes(codebooks, codes, encoder.is_additive)
    graph = {}
    if ONNX in files.names and find_spec("onnxruntime"):
        graph["max_onnx_difference"] = onnx_difference(encoder_in(files, runtime="onnx"), encoder)
    figures = prove(index, codebooks, encoder.quantizer, codes, xq, ids=ids)
    return {"files": len(files.names), "items": len(items), **figures, **graph}
