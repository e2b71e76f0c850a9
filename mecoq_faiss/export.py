"""The whole export job: run + images -> a proved bundle."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from .bundle import FILES, INDEX, ITEMS, write_manifest
from .checkpoint import RunFolder, save_model
from .config import to_json
from .datasets import FeatureSource, ImageSource, UnreadableImage, open_source
from .encode import BATCH, check_fits, encode
from .encoder import Encoder
from .faisscheck import simd_level
from .files import check_writable_parent, write_text
from .index import build_index, check_kind, read_codebooks
from .indexfile import load_index, save_index
from .shards import map_array
from .verification import verify
from .views import ViewSpec, apply_colour, crop, draw_view

logger = logging.getLogger("mecoq_faiss")
QUERIES = 64  # of the proof


def export_index(
    run: str | Path,
    data: str | Path | ImageSource | FeatureSource,
    out: str | Path,
    *,
    kind: str = "pq",
    workers: int = -1,
    device: str = "cpu",
    **options: Any,
) -> dict[str, Any]:
    """Encode the images, build the FAISS index, write the bundle and prove it.

    Everything is made in `OUT.partial`, which a killed export continues, and renamed when it is proved.

    Args:
        run: a finished run folder.
        data: a source or its name; of a built-in protocol, the database.
        out: the bundle's folder; refused where it exists.
        kind: the FAISS index, see `index.KINDS`; `options` (nlist, nprobe, ...) go to `index.build_index`.
        workers, device: as in `encode`.

    Returns:
        The manifest.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line.
        VerificationError: the index does not match the model; no bundle is left.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another --out")
    check_writable_parent(out)
    folder = RunFolder(run)
    model_config, _ = folder.read_config()
    check_kind(kind, model_config.M, model_config.nbits)
    encoder = Encoder(folder.load_trained(), device)
    source = data if isinstance(data, ImageSource | FeatureSource) else open_source(data, "database")
    check_fits(encoder, source)
    partial = out.with_name(out.name + ".partial")
    (partial / "encoder").mkdir(parents=True, exist_ok=True)
    try:
        if not (partial / ITEMS).exists():
            encode(encoder, source, partial / ITEMS, embeddings=None, workers=workers)
        manifest = _finish(partial, encoder, source, kind, options)
    except (KeyboardInterrupt, SystemExit):
        raise  # what is encoded is continued by the next run
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    os.replace(partial, out)
    return manifest


def _finish(
    partial: Path, encoder: Encoder, source: ImageSource | FeatureSource, kind: str, options: dict[str, Any]
) -> dict[str, Any]:
    from .bundle import read_manifest

    codes = np.asarray(map_array(partial / ITEMS, "codes"))
    quantizer = encoder.model.quantizer
    codebooks = quantizer.unit_codebooks().detach().cpu().numpy()
    save_index(build_index(codebooks, codes, kind, **options), partial / INDEX)
    model_config = dataclasses.replace(encoder.model.config, weights="none")
    write_text(partial / "encoder" / "config.json", to_json(model_config))
    save_model(encoder.model, partial / "encoder" / "model.safetensors")
    index = load_index(partial / INDEX)
    figures = verify(
        index,
        read_codebooks(index),
        quantizer.cpu(),
        codes,
        _held_out_queries(encoder, source),
        _encode_again(encoder, source, partial / ITEMS),
        exhaustive=kind in ("pq", "gpu"),
    )
    write_manifest(
        partial,
        {
            "kind": kind,
            "M": model_config.M,
            "nbits": model_config.nbits,
            "d": model_config.D,
            "bytes_per_code": model_config.bits / 8,
            "metric": "inner_product",
            "query_normalisation": "every segment of d / M values divided by its L2 norm; scores lie in [-M, M]",
            "options": options,
            "preprocessing": {
                "backbone": model_config.backbone,
                "image_size": model_config.image_size,
                "resize": "centred square, bicubic, antialiased",
                "mean": encoder.model.backbone.mean.flatten().tolist(),
                "std": encoder.model.backbone.std.flatten().tolist(),
            },
            "counts": {"items": len(codes), "source_items": len(source), "unreadable": len(source) - len(codes)},
            "source": source.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: _version(name) for name in ("mecoq-faiss", "torch", "torchvision", "numpy")}
            | {"faiss": __import__("faiss").__version__, "simd": simd_level()},
            "verification": figures,
        },
    )
    extra = [p.name for p in partial.iterdir() if p.name not in {f.split("/")[0] for f in FILES} | {"manifest.json"}]
    if extra:
        raise RuntimeError(f"unexpected files in the bundle: {extra}")
    return read_manifest(partial)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def _held_out_queries(encoder: Encoder, source: ImageSource | FeatureSource) -> np.ndarray:
    """Queries that are not in the database: random views of some of its images (features: with a tenth dropped)."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(source))[:QUERIES]
    if isinstance(source, FeatureSource):
        x = np.array(source.features[np.sort(rows)], dtype=np.float32)
        x = x if x.ndim == 2 else x[:, 0]
        return encoder.encode_batch(torch.from_numpy(x * (rng.random(x.shape) < 0.9).astype(np.float32)))
    spec, size = ViewSpec(), encoder.model.config.image_size
    images, colours = [], []
    for row in rows:
        try:
            image = source.open(int(row))
        except UnreadableImage:
            continue
        view = draw_view(spec, *image.size, key=(0, int(row)))
        images.append(crop(image, view.box, size))
        colours.append(torch.from_numpy(view.colour))
    if not images:  # all of the sample is unreadable: any vectors serve
        return encoder.model.quantizer.segments(torch.randn(QUERIES, encoder.d)).flatten(1).numpy()
    views = apply_colour(torch.stack(images), torch.stack(colours))
    return encoder.encode_batch((views * 255).round().to(torch.uint8))


def _encode_again(encoder: Encoder, source: ImageSource | FeatureSource, items: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the index and the codes that `Encoder.encode` gives for their images, up to one batch."""
    with h5py.File(items) as file:
        ids = file["ids"][:BATCH]
    if isinstance(source, FeatureSource):
        z = encoder.encode(np.stack([np.atleast_2d(source.features[int(i)])[0] for i in ids]))
    else:
        z = encoder.encode([source.open(int(i), draft=encoder.model.config.image_size) for i in ids])
    return np.arange(len(ids)), encoder.codes(z)
