"""The command `mecoq-faiss encode`: its options and what it prints."""

from __future__ import annotations

import click

from .options import data_option, device_option, json_option, ray_option, show, workers_option


@click.command("encode")
@click.argument("run", type=click.Path())
@data_option("data", "Images to encode")
@click.option("--out", required=True, type=click.Path(), help="The .h5 file to be made.")
@click.option("--split", default="database", show_default=True, help="Split of a built-in protocol.")
@click.option("--dtype", type=click.Choice(["float16", "float32", "none"]), default="float16", show_default=True)
@ray_option
@workers_option
@device_option
@json_option
def command(
    run: str,
    data: str,
    out: str,
    split: str,
    dtype: str,
    ray: str | None,
    workers: int,
    device: str,
    as_json: bool,
) -> None:
    """Encode images into embeddings, codes, ids, paths and labels (HDF5)."""
    embeddings = None if dtype == "none" else dtype
    if ray is not None:
        from mecoq_faiss.cluster.encode import encode as encode_on_ray

        n = encode_on_ray(run, data, out, ray=ray, split=split, embeddings=embeddings, device=device)
    else:
        from mecoq_faiss.jobs.encode import encode

        n = encode(run, data, out, split=split, embeddings=embeddings, workers=workers, device=device)
    show({"file": str(out), "items": n}, as_json)
