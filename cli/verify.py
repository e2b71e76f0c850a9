"""The command `mecoq-faiss verify`: its options and what it prints."""

from __future__ import annotations

import click

from .options import json_option, show


@click.command("verify")
@click.argument("bundle", type=click.Path())
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Read all files of a bundle, compare them with its manifest, and prove the index against the model again."""
    from mecoq_faiss.jobs.verify import verify

    show(verify(bundle), as_json)
