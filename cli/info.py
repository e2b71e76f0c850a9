"""The command `mecoq-faiss info`: its options and what it prints."""

from __future__ import annotations

import click

from .options import json_option, show


@click.command("info")
@click.argument("path", metavar="[RUN|BUNDLE|FILE]", type=click.Path(), required=False)
@click.option("--presets", is_flag=True, help="List the presets of train.")
@click.option("--kinds", is_flag=True, help="List the kinds of index of export-index.")
@click.option("--plot", type=click.Path(), help="Draw a bundle's updates into this .svg or .png file (extra: report).")
@json_option
def command(path: str | None, presets: bool, kinds: bool, plot: str | None, as_json: bool) -> None:
    """Describe a run, a bundle, a FAISS index file or an encoded file; or list what there is to choose from."""
    if bool(path) + presets + kinds != 1:
        raise click.UsageError("give a run, a bundle or a file, or --presets, or --kinds: one of them")
    if plot and not path:
        raise click.UsageError("--plot draws a bundle's history: give a bundle")
    from mecoq_faiss.jobs.info import KINDS, describe, describe_presets, draw_history

    if plot and path:
        draw_history(path, plot)
    show(describe(path) if path else describe_presets() if presets else KINDS, as_json)
