"""The command `mecoq-faiss export-items`: its options and what it prints."""

from __future__ import annotations

import click

from .options import json_option, show


@click.command("export-items")
@click.argument("bundle", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="The .parquet file to be made.")
@json_option
def command(bundle: str, out: str, as_json: bool) -> None:
    """Write a row for each item of BUNDLE, in the index's order: id, image_path, label and the metadata (Parquet)."""
    from mecoq_faiss.jobs.export_items import export_items

    show({"file": str(out), "items": export_items(bundle, out)}, as_json)
