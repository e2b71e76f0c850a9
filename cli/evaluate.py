"""The command `mecoq-faiss evaluate`: its options and what it prints."""

from __future__ import annotations

import click

from .options import K_MAP, data_option, device_option, json_option, k_option, show, workers_option


@click.command("evaluate")
@click.argument("path", metavar="RUN|BUNDLE", type=click.Path())
@data_option("queries", "Labelled query images")
@data_option("database", "Labelled database (a bundle brings its own)", required=False)
@k_option(K_MAP, "Cut-off of MAP@k.", "the whole database")
@workers_option
@device_option
@json_option
def command(
    path: str, queries: str, database: str | None, k: int | None, workers: int, device: str, as_json: bool
) -> None:
    """MAP@k and precision@1, @10, @100 of a run or a bundle, by labels (folder names).

    "map" divides each query's precisions by its relevant items among the first k, the usual convention; "map all" by
    all of its relevant items, as in the paper (Eq. 18).
    """
    from mecoq_faiss.jobs.evaluate import evaluate

    show(evaluate(path, queries, database, k, workers=workers, device=device), as_json)
