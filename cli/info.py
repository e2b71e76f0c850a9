"""The command `mecoq-faiss info`: its options and what it prints."""

from __future__ import annotations

import click

from .options import json_option, show


@click.command("info")
@click.argument("path", metavar="[RUN|BUNDLE|FILE]", type=click.Path(), required=False)
@click.option("--presets", is_flag=True, help="List the presets of train.")
@click.option("--kinds", is_flag=True, help="List the kinds of index of export-index.")
@json_option
def command(path: str | None, presets: bool, kinds: bool, as_json: bool) -> None:
    """Describe a run, a bundle, a FAISS index file or an encoded file; or list what there is to choose from."""
    if bool(path) + presets + kinds != 1:
        raise click.UsageError("give a run, a bundle or a file, or --presets, or --kinds: one of them")
    from mecoq_faiss.jobs.info import KINDS, describe, describe_presets

    show(describe(path) if path else describe_presets() if presets else KINDS, as_json)
