"""The command `mecoq-faiss split`: its options and what it prints."""

from __future__ import annotations

import click

from .options import json_option, show


@click.command("split")
@click.argument("bundle", type=click.Path())
@click.option("--out-dir", required=True, type=click.Path(), help="The folder of the new bundles.")
@click.option("--parts", type=int, help="So many ranges of rows: part-1, part-2, ...")
@click.option("--by-class", is_flag=True, help="In place of --parts, a bundle for each class, of its name.")
@json_option
def command(bundle: str, out_dir: str, parts: int | None, by_class: bool, as_json: bool) -> None:
    """Divide BUNDLE into bundles of the same model, from its codes; items keep their ids. merge joins them again."""
    from mecoq_faiss.jobs.split import split

    done = split(bundle, out_dir, parts, by_class=by_class)
    show({"bundles": len(done), "items": sum(done.values()), "items_of_each": done}, as_json)
