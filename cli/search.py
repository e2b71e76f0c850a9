"""The command `mecoq-faiss search`: its options and what it prints."""

from __future__ import annotations

import json

import click

from .options import K_RESULTS, device_option, json_option, k_option, printable, show


@click.command("search")
@click.argument("bundle", type=click.Path())
@click.argument("queries", nargs=-1, required=True, type=click.Path())
@k_option(K_RESULTS, "Results a query.", "all of a smaller bundle")
@click.option("--where", help="Search only items of which this is true: \"year >= 2020 and camera == 'X'\".")
@click.option("--out", type=click.Path(), help="Write the hits into this .parquet file (extra: metadata).")
@device_option
@click.option(
    "--runtime",
    type=click.Choice(["torch", "onnx"]),
    default="torch",
    show_default=True,
    help="What encodes the queries; onnx needs no torch (extra: onnx; see export-index --onnx).",
)
@json_option
def command(
    bundle: str,
    queries: tuple[str, ...],
    k: int | None,
    where: str | None,
    out: str | None,
    device: str,
    runtime: str,
    as_json: bool,
) -> None:
    """Search BUNDLE with image files; with .npy or .h5 files, each row a query, where the model takes features."""
    from mecoq_faiss.jobs.search import query_names, search, write_hits

    results = search(bundle, queries, k, where=where, device=device, runtime=runtime)
    names = query_names(queries)
    if out is not None:
        show({"hits": write_hits(out, names, results), "out": out}, as_json)
        return
    if as_json:
        rows = [{"query": q, "hits": [hit._asdict() for hit in hits]} for q, hits in zip(names, results, strict=True)]
        click.echo(json.dumps(rows))
        return
    for query, hits in zip(names, results, strict=True):
        click.echo(printable(query))
        for hit in hits:
            click.echo(f"{hit.rank:>5}  {hit.score:8.4f}  {printable(hit.path)}")
