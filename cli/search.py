from __future__ import annotations

import json

import click

from .options import json_option


@click.command("search")
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("-k", default=10, show_default=True, help="Results an image.")
@json_option
def command(bundle: str, images: tuple[str, ...], k: int, as_json: bool) -> None:
    """Search BUNDLE with image files."""
    from mecoq_faiss.search import search

    results = search(bundle, images, k)
    if as_json:
        rows = [{"query": q, "hits": [hit._asdict() for hit in hits]} for q, hits in zip(images, results, strict=True)]
        click.echo(json.dumps(rows))
        return
    for query, hits in zip(images, results, strict=True):
        click.echo(query)
        for hit in hits:
            click.echo(f"{hit.rank:>5}  {hit.score:8.4f}  {hit.path}")
