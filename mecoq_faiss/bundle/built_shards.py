"""Shards built one after the other of one encoded file; their metadata, each shard's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mecoq_faiss.bundle.built import build_bundle, write_encoder
from mecoq_faiss.bundle.engine import Engine
from mecoq_faiss.bundle.folder import ENCODER_FILES, METADATA, ONNX
from mecoq_faiss.bundle.items import Items
from mecoq_faiss.bundle.metadata import Metadata, Part, write_metadata
from mecoq_faiss.bundle.sharded import link_file, shard_name
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.given import Table
from mecoq_faiss.index.build import FORMER, SHARING, check_options
from mecoq_faiss.index.inverted_lists import coarse_centroids
from mecoq_faiss.storage.shards import map_array


def shared_options(
    encoder: TorchEncoder, codes: np.ndarray, kind: str, options: dict[str, Any], sizes: Sequence[int]
) -> dict[str, Any]:
    """Options of `build_index` that all shards of a collection take, so that they answer as one index would.

    Args:
        encoder: the model's.
        codes: all of the collection, (n, M) uint8, or what gives arrays for slices (`Items.lazy`).
        kind: of the index.
        options: those of the one index: `nlist`, `nprobe`, `refine`, `k_factor`, `seed`.
        sizes: how many codes each shard will have.

    Returns:
        The same with `nlist` and `nprobe` of the whole collection, and of kinds with lists their `centroids`
        (nlist, d) float32, which took k-means of a sample.

    Raises:
        ValueError: options that the kind does not have, or that are out of range.
    """
    given = {name: value for name, value in options.items() if name != "seed"}
    if FORMER.get(kind, kind) == "ivfpq-all":  # its lists are a GPU's work, and not chosen among
        nlist = options.get("nlist") or check_options(kind, max(sizes), **given)[0]
        return options | {"nlist": min(nlist, *sizes)}
    nlist, nprobe = check_options(kind, len(codes), **given)
    if kind not in SHARING:
        return options
    centroids = coarse_centroids(encoder.codebooks, codes, nlist, options.get("seed", 0), encoder.is_additive)
    return options | {"nlist": nlist, "nprobe": nprobe, "centroids": centroids}


def build_shards(
    folder: Path,
    encoder: TorchEncoder,
    encoded: Path,
    kind: str,
    options: dict[str, Any],
    number: int,
    *,
    ids: np.ndarray | None = None,
    own_ids: bool = False,
    xq: np.ndarray | None = None,
    re_encoded: tuple[np.ndarray, np.ndarray] | None = None,
    source: str | None = None,
    engine: Engine | None = None,
) -> list[dict[str, Any]]:
    """Build the shards of an encoded file, all but their metadata and manifests: so many stretches of its rows.

    Memory is that of one of them. The arguments are those of `build_bundle`; `ids` those of all rows. An `engine`
    builds several at once.

    Returns:
        What the manifest of each says, for `finish_bundle`.

    Raises:
        ValueError: more shards than rows.
        VerificationError: an index does not match the model.
    """
    codes = map_array(encoded, "codes")
    n = len(codes)
    if number > n:
        raise ValueError(f"{n} items cannot be in {number} shards: choose --shards {n} or fewer")
    edges = [n * i // number for i in range(number + 1)]
    options = shared_options(encoder, codes, kind, options, [end - start for start, end in pairwise(edges)])
    tasks: list[dict[str, Any]] = []
    for i, (start, end) in enumerate(pairwise(edges)):
        shard = folder / shard_name(i)
        shard.mkdir(exist_ok=True)
        if i:
            _share_encoder(folder / shard_name(0), shard)
        else:
            write_encoder(encoder, shard)
        again = None if re_encoded is None or i else (re_encoded[0][:end], re_encoded[1][:end])
        mine = None if ids is None else ids[start:end]
        task = {"folder": shard, "encoded": encoded, "kind": kind, "options": options, "rows": slice(start, end)}
        tasks.append(task | {"ids": mine, "own_ids": own_ids, "xq": xq, "re_encoded": again, "source": source})
    if engine is not None:
        return engine.build_bundles(encoder, tasks)
    return [build_bundle(encoder=encoder, **task) for task in tasks]


def divide_metadata(
    folder: Path,
    shards: Sequence[tuple[Path, int]],
    items: Items,
    parts: Sequence[Part],
    table: Table | None,
) -> list[dict[str, Any] | None]:
    """Write to each shard the metadata of its items, joined once in `folder` and divided; what each manifest says.

    Args:
        folder: where the joined file lies for a while.
        shards: the folder of each, and how many items it has.
        items: those of all shards, one shard's after the other's.
        parts: metadata of other bundles.
        table: the user's, or None.
    """
    whole = write_metadata(folder, parts, table, items)
    if whole is None:
        return [None] * len(shards)
    described: list[dict[str, Any] | None] = []
    sidecar = {name: whole[name] for name in ("sidecar",) if name in whole}
    with ExitStack() as stack:
        file = stack.enter_context(open(folder / METADATA, "rb"))
        joined = Metadata(str(folder / METADATA), file, whole["rows"], whole["columns"])
        start = 0
        for shard, count in shards:
            ids = items.ids[start : start + count]
            start += count
            said = write_metadata(shard, [Part(joined, ids, ids)])
            described.append(None if said is None else said | sidecar)
    (folder / METADATA).unlink()
    return described


def _share_encoder(first: Path, shard: Path) -> None:
    (shard / "encoder").mkdir(exist_ok=True)
    for name in (*ENCODER_FILES, *([ONNX] if (first / ONNX).exists() else [])):
        link_file(first / name, shard / name)
