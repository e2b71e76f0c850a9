from __future__ import annotations

import click

from .options import data_option, device_option, json_option, show, workers_option


@click.command("evaluate")
@click.argument("path", metavar="RUN|BUNDLE", type=click.Path())
@data_option("queries", "Labelled query images")
@data_option("database", "Labelled database (a bundle brings its own)", required=False)
@click.option("-k", default=1000, show_default=True, help="Cut-off of MAP@k.")
@workers_option
@device_option
@json_option
def command(path: str, queries: str, database: str | None, k: int, workers: int, device: str, as_json: bool) -> None:
    """MAP@k and precision@1, @10, @100 of a run or a bundle, by labels (folder names)."""
    from mecoq_faiss.devices import resolve_device
    from mecoq_faiss.evaluate import evaluate

    show(evaluate(path, queries, database, k, workers=workers, device=resolve_device(device)), as_json)
