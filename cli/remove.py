"""The command `mecoq-faiss remove`: its options and what it prints."""

from __future__ import annotations

import click

from .options import json_option, show


@click.command("remove")
@click.argument("bundle", type=click.Path())
@click.argument("paths", nargs=-1)
@click.option("--id", "ids", type=int, multiple=True, help="An item's own id, in place of paths; may be repeated.")
@json_option
def command(bundle: str, paths: tuple[str, ...], ids: tuple[int, ...], as_json: bool) -> None:
    """Remove items from a bundle, by their paths as search shows them, or by --id."""
    from mecoq_faiss.jobs.remove import remove

    show(remove(bundle, list(ids) or None, paths=list(paths) or None), as_json)
