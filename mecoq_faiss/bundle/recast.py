"""New bundles from the codes of others: what joined and divided ones have in common."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mecoq_faiss.bundle.folder import INDEX, ITEMS, METADATA, Pinned, encoder_files, write_manifest
from mecoq_faiss.bundle.items import items_in
from mecoq_faiss.bundle.metadata import Part, metadata_in, write_metadata
from mecoq_faiss.bundle.probes import queries_like_codes
from mecoq_faiss.bundle.proof import verify
from mecoq_faiss.bundle.segments import all_columns, write_segment
from mecoq_faiss.bundle.sharded import SHARD, link_all, shard_name, write_sharded
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.index import build_index, describe_index, load_index, read_codebooks, save_index
from mecoq_faiss.index.build import SHARING
from mecoq_faiss.index.inspect import read_centroids
from mecoq_faiss.storage.files import replacing

NAMES = rf"index\.faiss|items\.h5|encoder|encoder\.onnx|metadata\.parquet|spill|manifest\.json|{SHARD}"
OF_ITS_OWN = (
    "format",
    "files",
    "segments",
    "history",
    "updated",
    "next_id",
    "source",
    "counts",
    "metadata",
    "shards",
)  # of a manifest
OF_ITS_INDEX = ("nlist", "nprobe", "refine", "has_ids")


def next_id(files: Pinned, ids: np.ndarray) -> int:
    """The lowest id that no item of a bundle ever had; `ids` are those of its items."""
    return max(int(files.manifest.get("next_id", 0)), int(ids.max(initial=-1)) + 1)


def settings(said: dict[str, Any], n: int) -> dict[str, Any]:
    """The options of `build_index` that give n codes an index such as `describe_index` says; at most n lists."""
    options = {"kind": said["kind"], "refine": said["refine"] is not None, "k_factor": said["refine"] or 4.0}
    if said["nlist"] is None:
        return options
    nlist = min(said["nlist"], n)
    return options | {"nlist": nlist, "nprobe": min(said["nprobe"], nlist)}


def write_recast(
    folder: Path,
    files: Pinned,
    encoder: TorchEncoder,
    codebooks: np.ndarray,
    arrays: dict[str, np.ndarray],
    attributes: dict[str, Any],
    options: dict[str, Any],
    *,
    own_ids: bool,
    first_free: int,
    source: str,
    metadata: Sequence[Part] = (),
) -> None:
    """Write a bundle of items that have their codes, with the model and the kind of another, and prove it.

    Args:
        folder: an empty one.
        files: the other bundle, opened.
        encoder: its encoder.
        codebooks: those of its index.
        arrays: columns of the items, as `segments.all_columns` gives them.
        attributes: of the same.
        options: of `build_index`.
        own_ids: whether a search of the index returns the items' ids, not positions.
        first_free: the lowest id that no item ever had.
        source: what the manifest says of where the items come from.
        metadata: what the items have in other bundles.

    Raises:
        VerificationError: the index does not match the model.
    """
    codes, ids = arrays["codes"], arrays["ids"] if own_ids else None
    additive = encoder.is_additive
    save_index(build_index(codebooks, codes, ids=ids, additive=additive, **options), folder / INDEX)
    write_segment(folder / ITEMS, arrays, attributes)
    (folder / "encoder").mkdir()
    of_encoder = encoder_files(files)
    for name in of_encoder:
        with replacing(folder / name) as temporary, open(temporary, "wb") as file:
            shutil.copyfileobj(files.file(name), file, 1 << 20)
    index = load_index(folder / INDEX)
    xq = queries_like_codes(codebooks, codes, additive)
    figures = verify(index, read_codebooks(index), encoder.quantizer.cpu(), codes, xq, ids=ids)
    said = describe_index(index)
    content = {name: value for name, value in files.manifest.items() if name not in OF_ITS_OWN}
    content |= {name: said[name] for name in OF_ITS_INDEX}
    content |= {
        "counts": {"items": len(codes)},
        "source": source,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "next_id": first_free,
        "verification": figures,
    }
    described = write_metadata(folder, metadata)
    if described is not None:
        content["metadata"] = described
    names = [INDEX, ITEMS, *of_encoder, *([] if described is None else [METADATA])]
    write_manifest(folder, content, names)


def write_shards_of(
    folder: Path,
    bundles: Sequence[tuple[Pinned, np.ndarray | None]],
    encoder: TorchEncoder,
    codebooks: np.ndarray,
    said: dict[str, Any],
    *,
    first_free: int,
    source: str,
) -> None:
    """Write a bundle whose shards are other bundles: the same files, or, where their items get other ids, written anew.

    Args:
        folder: an empty one.
        bundles: each opened, and the new ids of its items (n,) int64, or None.
        encoder: their encoder.
        codebooks: those of their indexes.
        said: what `describe_index` says of the first one's index.
        first_free: the lowest id that no item ever had.
        source: what the manifest says of where the items come from.

    Raises:
        ValueError: bundles that cannot be shards of one.
    """
    for number, (files, ids) in enumerate(bundles):
        shard = folder / shard_name(number)
        if ids is None:
            link_all(files, shard)
            continue
        shard.mkdir()
        options = settings(said, len(ids))
        if options["kind"] in SHARING:
            centroids = read_centroids(index_in(files))
            options |= {"nlist": said["nlist"], "nprobe": said["nprobe"], "centroids": centroids}
        with items_in(files) as items:
            arrays, attributes = all_columns(items)
        metadata = metadata_in(files)
        write_recast(
            shard, files, encoder, codebooks, arrays | {"ids": ids}, attributes, options,
            own_ids=said["has_ids"], first_free=first_free, source=str(files.bundle),
            metadata=[] if metadata is None else [Part(metadata, arrays["ids"], ids)],
        )  # fmt: skip
    write_sharded(folder, {"source": source, "next_id": first_free})
