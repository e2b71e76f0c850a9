from __future__ import annotations

from typing import Any

import click

from .options import data_option, device_option, json_option, show, workers_option


@click.command("export-index")
@click.argument("run", type=click.Path())
@data_option("data", "Images of the database")
@click.option("--out", required=True, type=click.Path(), help="Folder of the bundle, to be made.")
@click.option("--index", "kind", default="pq", show_default=True, help="pq, pqfs, ivfpq, ivfpqfs or gpu.")
@click.option("--nlist", type=int, help="Inverted lists of an IVF kind; chosen from the number of images if absent.")
@click.option("--nprobe", type=int, help="Lists that a search visits.")
@workers_option
@device_option
@json_option
def command(run: str, data: str, out: str, kind: str, workers: int, device: str, as_json: bool, **options: Any) -> None:
    """Encode images, write a FAISS index with its encoder, and prove it."""
    from mecoq_faiss.export import export_index
    from mecoq_faiss.train import resolve_device

    options = {name: value for name, value in options.items() if value is not None}
    manifest = export_index(run, data, out, kind=kind, workers=workers, device=resolve_device(device), **options)
    names = ("kind", "M", "nbits", "d", "bytes_per_code", "counts", "verification")
    show({"bundle": str(out), **{name: manifest[name] for name in names}}, as_json)
