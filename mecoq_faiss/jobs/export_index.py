"""The whole export job: images, or codes made before, -> a proved bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mecoq_faiss.baselines.as_model import kmeans_model
from mecoq_faiss.bundle.built import build_bundle, finish_bundle
from mecoq_faiss.bundle.built_shards import build_shards, divide_metadata
from mecoq_faiss.bundle.embedding import check_fits, model_fingerprint
from mecoq_faiss.bundle.encoded import count_codes, encode_source
from mecoq_faiss.bundle.encoder import load_encoder
from mecoq_faiss.bundle.engine import Engine
from mecoq_faiss.bundle.folder import ITEMS, ONNX, is_bundle, read_manifest, shard_names
from mecoq_faiss.bundle.items import REMOVED, Items, items_in, segment_names
from mecoq_faiss.bundle.metadata import Part, metadata_in, write_metadata
from mecoq_faiss.bundle.onnx_export import check_exporting, write_onnx
from mecoq_faiss.bundle.own_ids import AUTO, ids_of_items
from mecoq_faiss.bundle.probes import encode_again, queries_like_images
from mecoq_faiss.bundle.segments import write_together
from mecoq_faiss.bundle.sharded import (
    SHARD,
    pinned_shards,
    shard_name,
    verify_all_files,
    write_sharded,
)
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.given import Table, check_given
from mecoq_faiss.data.own_ids import read_ids
from mecoq_faiss.data.sources import Source, open_source
from mecoq_faiss.index import check_ids, check_kind, check_options
from mecoq_faiss.storage.files import check_regular, check_writable_parent
from mecoq_faiss.storage.hdf5 import damaged_dataset
from mecoq_faiss.storage.shards import map_array, shards_written
from mecoq_faiss.storage.work_folder import MARKER, WorkFolder
from mecoq_faiss.training.targets import given_features

logger = logging.getLogger("mecoq_faiss")
FORMAT = 1  # of unfinished exports
KMEANS_ROWS = 65_536  # FAISS's k-means takes no more: 256 rows a centroid
ENCODED = "encoded.h5"  # in the unfinished bundle; its rows become items.h5
TOGETHER = "together.h5"  # there too: the items of a bundle that has them in several files
MOST_SHARDS = 1_000_000  # as their names have digits
PARTIAL_NAMES = (
    r"encoded\.h5(\.parts)?|together\.h5|index\.faiss|items\.h5|encoder|encoder\.onnx|metadata\.parquet|spill|"
    rf"manifest\.json|{SHARD}"
)


def export_index(
    run: str | Path,
    data: str | Path | Source | None,
    out: str | Path,
    *,
    codes: str | Path | None = None,
    kind: str = "pq",
    ids: np.ndarray | str | Path | None = None,
    nlist: int | None = None,
    nprobe: int | None = None,
    refine: bool = False,
    k_factor: float = 4.0,
    seed: int = 0,
    metadata: str | Path | None = None,
    onnx: bool = False,
    kmeans: bool = False,
    shards: int | None = None,
    workers: int = -1,
    device: str | torch.device = "auto",
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Encode the images, or take their stored codes; build the FAISS index, write the bundle and prove it.

    Everything is made in `OUT.partial`, and renamed when it is proved; whatever ended an export before that, the next
    one continues with what was encoded. Memory hardly grows beyond the index. A `pq` bundle of any size opens at once
    with `faiss.read_index(file, faiss.IO_FLAG_MMAP_IFC)`.

    Args:
        run: a finished run folder, or a bundle.
        data: a source or its name; of a built-in protocol, the database. None with `codes`.
        out: the new bundle's folder; refused where it exists.
        codes: a file that `encode` wrote with this model, or a bundle or its items.h5: no image is read.
        kind: the FAISS index: `pq`, `pqfs`, `ivfpq`, `ivfpqfs` or `ivfpq-all`; see `index.build_index`.
        ids: (n,) int64 that a search returns instead of positions, one for each image of the source (each row of
            `codes`); or a .npy file, an .h5 file with a dataset `ids`, or a .csv, .parquet or .jsonl file with a column
            `id`; or "auto": those that items have anyway, 0 to n - 1 of n images, for programs that add by id.
        nlist: inverted lists of an IVF kind; by default about 4 * sqrt(n).
        nprobe: lists a search visits, stored in the index; by default about 2 * sqrt(nlist).
        refine: re-score the best k_factor * k of a FastScan kind exactly, for a second copy of the codes.
        k_factor: at least 1; stored in the index.
        kmeans: not the model's codes but FAISS's PQ of the same size, by k-means of the images' features under the same
            backbone: what the learned codes are to be compared with.
        shards: divide the items, in their order, into so many bundles in one folder, which are built one after the
            other in the memory of one, and searched as one; see `open_bundle`.
        seed: of the coarse k-means and its sample, and of `kmeans`.
        metadata: a .csv, .parquet or .jsonl file of further columns of the items, joined by its column `path` or `id`,
            or the further lists of an .h5 of features (extra: metadata); by default those of the table beside a .npy.
            A bundle given as `codes` passes on what it has.
        onnx: put encoder.onnx into the bundle, for applications without torch (extra: onnx-export); see
            `export_encoder`.
        workers: processes that decode images; -1 chooses.
        device: where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.
        engine: encodes, and builds shards, by other processes; `mecoq_faiss.cluster` has one.

    Returns:
        The manifest.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.
        VerificationError: the index does not match the model; no bundle is left.

    Example:
        >>> from mecoq_faiss import export_index
        >>> manifest = export_index("run", "photos", "bundle-ivf", kind="ivfpq", nlist=4, nprobe=2)
        >>> manifest["counts"]["items"], manifest["nprobe"]
        (20, 2)
    """
    out = Path(out)
    if out.exists() and not (out / MARKER).exists():
        raise FileExistsError(f"{out} exists: choose another --out")
    table = None if metadata is None else Table(Path(metadata))
    if table is not None:
        check_given(table)
    donor, in_one = None, True  # a bundle whose codes are taken, and whether they are in one file
    if codes is not None and is_bundle(codes):
        donor = Path(codes)
        said = read_manifest(donor)
        in_one = "shards" not in said and REMOVED not in said["files"] and segment_names(said) == [ITEMS]
        codes = donor / ITEMS
    if kmeans and data is None:
        raise ValueError("k-means is trained on the images: give --data, not --codes")
    if (data is None) == (codes is None):
        raise ValueError("give either images (--data) or codes of them (--codes), one of the two")
    check_writable_parent(out)
    if onnx:
        check_exporting()
    encoder = load_encoder(run, device)
    config, additive = encoder.model.config, encoder.is_additive or kmeans
    check_kind(kind, config.M, config.nbits, additive=additive)
    source = open_source(data, "database") if isinstance(data, str | Path) else data
    if source is not None:
        check_fits(encoder, source)
        if kmeans:
            encoder = _by_kmeans(encoder, source, seed, workers)
        if table is None and source.table is not None:
            table = source.table
            check_given(table)
    n = len(source) if source is not None else _count(Path(codes or ""), donor, encoder)
    options: dict[str, Any] = {"nlist": nlist, "nprobe": nprobe, "refine": refine, "k_factor": k_factor}
    check_options(kind, n, **options)
    options["seed"] = seed
    if shards is not None and not 1 <= shards <= min(n, MOST_SHARDS):
        raise ValueError(f"shards={shards} is out of range: choose 1 to {min(n, MOST_SHARDS)} for {n} items")
    check_kind(kind, config.M, config.nbits, -(-n // (shards or 1)), additive=additive)
    if isinstance(ids, Path) or (isinstance(ids, str) and ids != AUTO):
        ids = read_ids(Path(ids))
    if ids is not None and not isinstance(ids, str):
        check_ids(ids, n)
    key = {
        "format": FORMAT,
        "model": model_fingerprint(encoder),
        "data": None if source is None else source.fingerprint,
    }
    work = WorkFolder(out.with_name(out.name + ".partial"), key, PARTIAL_NAMES)
    encoded = work.path / ENCODED
    spare = (ENCODED, ENCODED + ".parts", TOGETHER)
    if out.exists():  # with a marker: a kill came when it was done
        verify_all_files(out)
        if not work.finish(out, spare):
            raise FileExistsError(f"{out} exists: choose another --out")
        return read_manifest(out)
    with work.opened():
        work.clear(keep=(encoded.name, encoded.name + ".parts"))
        try:
            if onnx:  # first: a network that has no graph is refused before hours of encoding
                first = work.path if shards is None else work.path / shard_name(0)
                first.mkdir(exist_ok=True)
                write_onnx(encoder, first / ONNX)
            if source is not None:
                _encode(encoder, source, encoded, workers, engine)
            if donor is not None and not in_one:
                codes = work.path / TOGETHER
                write_together(donor, codes)
                if (found := len(map_array(codes, "codes"))) != n:
                    raise ValueError(f"{donor} has {found} items, its manifest says {n}: export or copy it again")
            contents = _build(work.path, encoder, source, Path(codes or encoded), ids, kind, options, shards, engine)
            counts = {}
            if source is not None:
                found = sum(content["counts"]["items"] for content in contents)
                counts = {"source_items": len(source), "unreadable": len(source) - found}
            if shards is None:
                contents[0]["counts"] |= counts
            _finish(work.path, contents, shards is not None, donor, table)
            manifest = read_manifest(work.path) if shards is None else write_sharded(work.path, {"counts": counts})
        except BaseException:
            if encoded.exists() or shards_written(encoded):
                logger.info("what is encoded is kept in %s: the same command continues from there", work.path)
            else:
                work.remove()
            raise
        work.become(out, without=spare)
    return manifest


def _count(codes: Path, donor: Path | None, encoder: TorchEncoder) -> int:
    """How many codes there are, which must be this model's and whole: in a file, or in a bundle."""
    if donor is None:
        return count_codes(codes, encoder)
    said = read_manifest(donor)
    for folder in [donor / name for name in shard_names(said)] or [donor]:
        n = count_codes(folder / ITEMS, encoder)
    updated = "shards" in said or "segments" in said or REMOVED in said["files"]
    return said["counts"]["items"] if updated else n


def _by_kmeans(encoder: TorchEncoder, source: Source, seed: int, workers: int) -> TorchEncoder:
    """The encoder of a PQ trained on the source's features, as FAISS users train one."""
    features, _ = given_features(source, encoder.model, workers, encoder.device)
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:KMEANS_ROWS])
    x = np.asarray(features[rows])
    return TorchEncoder(kmeans_model(encoder.model, x if x.ndim == 2 else x[:, 0], seed), encoder.device)


def _encode(encoder: TorchEncoder, source: Source, encoded: Path, workers: int, engine: Engine | None) -> None:
    """Encode the source, unless a killed export has done so."""
    try:
        if encoded.exists():
            check_regular(encoded)  # HDF5 would wait for a FIFO
            if damaged_dataset(encoded) is None:
                return
        reason = "does not match its checksums"
    except OSError as error:
        reason = str(error)
    if encoded.exists():
        logger.warning("%s is damaged (%s): it is made again", encoded, reason)
        encoded.unlink()
    make = None if engine is None else engine.write_shards
    encode_source(encoder, source, encoded, embeddings=None, workers=workers, make=make)


def _build(
    folder: Path,
    encoder: TorchEncoder,
    source: Source | None,
    encoded: Path,
    given: np.ndarray | str | None,
    kind: str,
    options: dict[str, Any],
    shards: int | None,
    engine: Engine | None,
) -> list[dict[str, Any]]:
    """Index, items, encoder and proof from an encoded file, of each shard; gives what the manifests say of them."""
    ids = None if given is None else ids_of_items(given, np.array(map_array(encoded, "ids")), source is not None)
    more: dict[str, Any] = {"ids": ids, "own_ids": ids is not None}
    if source is not None:
        more |= {"xq": queries_like_images(encoder, source), "source": source.name}
        more["re_encoded"] = encode_again(encoder, source, str(encoded))
    if shards is not None:
        return build_shards(folder, encoder, encoded, kind, options, shards, engine=engine, **more)
    return [build_bundle(folder, encoder, encoded, kind, options, **more)]


def _finish(
    folder: Path, contents: Sequence[dict[str, Any]], in_shards: bool, donor: Path | None, table: Table | None
) -> None:
    """Metadata and manifest of what was built: the user's table, and what a bundle whose codes were taken has."""
    folders = [folder / shard_name(i) for i in range(len(contents))] if in_shards else [folder]
    with ExitStack() as stack:
        items = stack.enter_context(Items([built / ITEMS for built in folders]))
        parts = [] if donor is None else _donated(donor, items, stack)
        if in_shards:
            counts = [content["counts"]["items"] for content in contents]
            described = divide_metadata(folder, list(zip(folders, counts, strict=True)), items, parts, table)
        else:
            described = [write_metadata(folder, parts, table, items)]
    for built, content, said in zip(folders, contents, described, strict=True):
        finish_bundle(built, content, said)


def _donated(donor: Path, items: Items, stack: ExitStack) -> list[Part]:
    """The metadata of a bundle whose items, in the same order, have become these."""
    _, opened = stack.enter_context(pinned_shards(donor))
    parts, start = [], 0
    for files in opened:
        with items_in(files) as own:
            ids = own.ids
        found = metadata_in(files)
        if found is not None:
            parts.append(Part(found, ids, items.ids[start : start + len(ids)]))
        start += len(ids)
    return parts
