"""A bundle built of encoded images: index, items, encoder and proof, and what its manifest says of them."""

from __future__ import annotations

import copy
import dataclasses
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mecoq_faiss.bundle.folder import ENCODER_FILES, FILES, INDEX, ITEMS, METADATA, ONNX, write_manifest
from mecoq_faiss.bundle.probes import queries_like_codes
from mecoq_faiss.bundle.proof import verify
from mecoq_faiss.bundle.segments import write_items
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.config_file import to_json
from mecoq_faiss.index import build_index, describe_index, read_codebooks
from mecoq_faiss.index.file import load_index, save_index
from mecoq_faiss.runtime.faiss_check import simd_level
from mecoq_faiss.storage.files import write_text
from mecoq_faiss.storage.shards import map_array
from mecoq_faiss.training.model_file import save_model

NORMALISATION = {
    "product": "every segment of d / M values divided by its L2 norm; scores lie in [-M, M]",
    "additive": "d / M values of L2 norm 1, M times in a row; scores lie in about [-1, 1]",
}
DESCRIBED = ("nlist", "nprobe", "refine", "has_ids")


def build_bundle(
    folder: Path,
    encoder: TorchEncoder,
    encoded: Path,
    kind: str,
    options: dict[str, Any],
    *,
    rows: slice | None = None,
    ids: np.ndarray | None = None,
    own_ids: bool = False,
    xq: np.ndarray | None = None,
    re_encoded: tuple[np.ndarray, np.ndarray] | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """Build a bundle, all but its metadata and its manifest, of an encoded file, or of some of its rows; and prove it.

    A shard of a collection is built like this too, with the ids and `options["centroids"]` of the whole.

    Args:
        folder: an empty one, or one with the encoder's files in it.
        encoder: the model that encoded them.
        encoded: the file that `encode_source` wrote.
        kind: of the index.
        options: further ones of `build_index`.
        rows: those of the file that are the items, in a row; all by default.
        ids: (m,) int64, the items' own; by default those in the file.
        own_ids: whether a search of the index returns these, not positions.
        xq: queries for the proof, (nq, d) float32; by default some near the codes.
        re_encoded: rows and codes of items that were encoded a second time.
        source: what the manifest says of where the items come from; the file by default.

    Returns:
        What the manifest says, for `finish_bundle`.

    Raises:
        VerificationError: the index does not match the model.
    """
    part = slice(None) if rows is None else rows
    codes = map_array(encoded, "codes")[part]
    ids = np.array(map_array(encoded, "ids")[part]) if own_ids and ids is None else ids
    of_index = ids if own_ids else None
    additive, model_config = encoder.is_additive, encoder.model.config
    codebooks = encoder.codebooks
    save_index(build_index(codebooks, codes, kind, ids=of_index, additive=additive, **options), folder / INDEX)
    write_items(encoded, folder / ITEMS, ids, rows)
    if not (folder / "encoder").exists():
        write_encoder(encoder, folder)
    xq = queries_like_codes(codebooks, codes, additive) if xq is None else xq
    index = load_index(folder / INDEX)
    quantizer = copy.deepcopy(encoder.quantizer).cpu()
    figures = verify(index, read_codebooks(index), quantizer, codes, xq, re_encoded, ids=of_index)
    backbone = encoder.model.backbone
    said = describe_index(index)
    return {
        "kind": said["kind"],
        "M": model_config.M,
        "nbits": model_config.nbits,
        "d": encoder.d,
        "codes": model_config.codes,
        "bytes_per_code": model_config.bits / 8,
        "metric": "inner_product",
        "query_normalisation": NORMALISATION[model_config.codes],
        "query_repeats": model_config.M if additive else 1,
        **{name: said[name] for name in DESCRIBED},
        "preprocessing": {
            "backbone": model_config.backbone,
            "image_size": model_config.image_size,
            "resize": "centred square, bicubic, antialiased",
            "mean": backbone.mean.flatten().tolist(),
            "std": backbone.std.flatten().tolist(),
        },
        "counts": {"items": len(codes)},
        "source": str(encoded) if source is None else source,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: _version(name) for name in ("mecoq-faiss", "torch", "torchvision", "numpy")}
        | {"faiss": faiss.__version__, "simd": simd_level()},
        "verification": figures,
    }


def write_encoder(encoder: TorchEncoder, folder: Path) -> None:
    """Write the encoder's files into a bundle's folder."""
    (folder / "encoder").mkdir(exist_ok=True)
    write_text(folder / ENCODER_FILES[0], to_json(dataclasses.replace(encoder.model.config, weights="none")))
    save_model(encoder.model, folder / ENCODER_FILES[1])


def finish_bundle(folder: Path, content: dict[str, Any], described: dict[str, Any] | None = None) -> None:
    """Write the manifest of a built bundle: its `content`, and its metadata as `described`, where it has some.

    An encoder.onnx that lies in it belongs to it.
    """
    more = [] if described is None else [METADATA]
    content = content if described is None else content | {"metadata": described}
    write_manifest(folder, content, (*FILES, *more, *([ONNX] if (folder / ONNX).exists() else [])))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
