"""The command `mecoq-faiss export-index`: its options and what it prints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from .options import KINDS, data_option, device_option, json_option, metadata_option, ray_option, show, workers_option


@click.command("export-index")
@click.argument("run", metavar="RUN|BUNDLE", type=click.Path())
@data_option("data", "Images of the database", required=False)
@click.option("--codes", type=click.Path(), help="In place of --data: an .h5 file of codes (encode, or items.h5).")
@click.option("--out", required=True, type=click.Path(), help="Folder of the bundle, to be made.")
@click.option(
    "--index",
    "kind",
    type=click.Choice([*KINDS, "gpu"]),
    default="pq",
    show_default=True,
    help="Kind of FAISS index; `mecoq-faiss info --kinds` describes them. gpu is ivfpq-all's former name.",
)
@click.option("--nlist", type=int, help="Inverted lists of an IVF kind; chosen from the number of images if absent.")
@click.option("--nprobe", type=int, help="Lists that a search visits.")
@click.option("--refine", is_flag=True, help="Score the best results of a FastScan kind again, exactly.")
@click.option("--k-factor", type=float, help="Results scored again, in multiples of k; implies --refine.  [default: 4]")
@click.option(
    "--ids",
    type=click.Path(),
    help="Own int64 ids that a search returns: a .npy, an .h5 with 'ids', a table with 'id'; or auto: the items' own.",
)
@click.option(
    "--layout",
    type=click.Choice(["clip-retrieval"]),
    help="Also write OUT-clip-retrieval: the folder that its back end serves (extra: metadata).",
)
@metadata_option
@click.option("--onnx", is_flag=True, help="Put encoder.onnx beside it, for search without torch (extra: onnx-export).")
@click.option("--shards", type=click.IntRange(min=1), help="Make a bundle of so many shards, searched as one.")
@click.option("--kmeans", is_flag=True, help="Instead of the model's codes a k-means PQ of the same size.")
@ray_option
@workers_option
@device_option
@json_option
def command(
    run: str,
    data: str | None,
    codes: str | None,
    out: str,
    kind: str,
    refine: bool,
    k_factor: float | None,
    ids: str | None,
    layout: str | None,
    ray: str | None,
    workers: int,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Write a FAISS index of images, or of stored codes, with its encoder, and prove it.

    A pq index opens at once at any size: faiss.read_index(file, faiss.IO_FLAG_MMAP_IFC).
    """
    if layout is not None and options["shards"] is not None:
        raise ValueError("--layout clip-retrieval takes one index: leave --shards out")
    beside = f"{Path(out)}-{layout}"
    if layout is not None and os.path.lexists(beside):
        raise FileExistsError(f"{beside} exists: choose another --out")

    options = {name: value for name, value in options.items() if value is not None}
    if refine or k_factor is not None:
        options["refine"] = True
    if k_factor is not None:
        options["k_factor"] = k_factor
    options |= {"codes": codes, "kind": kind, "ids": ids, "device": device}
    if ray is not None:
        from mecoq_faiss.cluster.export_index import export_index as export_on_ray

        manifest = export_on_ray(run, data, out, ray=ray, **options)
    else:
        from mecoq_faiss.jobs.export_index import export_index

        manifest = export_index(run, data, out, workers=workers, **options)
    if layout is not None:
        from mecoq_faiss.integrations.clip_retrieval import to_clip_retrieval

        to_clip_retrieval(out, beside)
    names = ("kind", "M", "nbits", "d", "bytes_per_code", "nlist", "nprobe", "refine", "counts", "verification")
    shown = {"bundle": str(out), **{name: manifest[name] for name in names if manifest[name] is not None}}
    show(shown | ({"shards": len(manifest["shards"])} if "shards" in manifest else {}), as_json)
