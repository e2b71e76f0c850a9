from __future__ import annotations

import click

from .options import json_option, show


@click.command("info")
@click.argument("path", metavar="RUN|BUNDLE|FILE", type=click.Path())
@json_option
def command(path: str, as_json: bool) -> None:
    """Describe a run, a bundle, a FAISS index file or an encoded file."""
    from mecoq_faiss.describe import describe

    show(describe(path), as_json)
