"""The command `mecoq-faiss export-encoder`: its options and what it prints."""

from __future__ import annotations

import click

from .options import json_option, show


@click.command("export-encoder")
@click.argument("bundle", metavar="RUN|BUNDLE", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="The .onnx file to be made.")
@json_option
def command(bundle: str, out: str, as_json: bool) -> None:
    """Write the encoder as one ONNX graph, which needs no torch, and compare it with the model (extra: onnx-export)."""
    from mecoq_faiss.jobs.export_encoder import export_encoder

    show(export_encoder(bundle, out), as_json)
