"""The command `mecoq-faiss add`: its options and what it prints."""

from __future__ import annotations

import click

from .options import device_option, json_option, metadata_option, show, workers_option


@click.command("add")
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--root", type=click.Path(), help="The collection's folder: paths are kept relative to it.")
@metadata_option
@workers_option
@device_option
@json_option
def command(
    bundle: str,
    images: tuple[str, ...],
    root: str | None,
    metadata: str | None,
    workers: int,
    device: str,
    as_json: bool,
) -> None:
    """Add image files, or one file of features, to a bundle.

    The same path with another content replaces what was there.
    """
    from mecoq_faiss.jobs.add import add

    show(add(bundle, images, root=root, metadata=metadata, workers=workers, device=device), as_json)
