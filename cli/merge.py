"""The command `mecoq-faiss merge`: its options and what it prints."""

from __future__ import annotations

from typing import Any

import click

from .options import json_option, show


@click.command("merge")
@click.argument("bundles", nargs=-1, required=True, type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="The new bundle.")
@click.option("--new-ids", is_flag=True, help="Give the items the ids 0 to n - 1.")
@click.option("--shards", is_flag=True, help="Keep the bundles as shards of the new one: nothing is built.")
@click.option("--nlist", type=int, help="Inverted lists of an IVF kind, where the bundles differ.")
@click.option("--nprobe", type=int, help="Lists a search visits, where the bundles differ.")
@json_option
def command(bundles: tuple[str, ...], out: str, as_json: bool, **options: Any) -> None:
    """Join BUNDLES of one model, with the same kind and settings of the index, from their codes.

    The items come one bundle after the other and keep their ids, unless --new-ids. Where one is in shards, so is the
    new bundle.
    """
    from mecoq_faiss.jobs.merge import merge

    manifest = merge(bundles, out, **options)
    show({"bundle": out, "kind": manifest["kind"], "items": manifest["counts"]["items"]}, as_json)
