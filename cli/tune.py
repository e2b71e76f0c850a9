"""The command `mecoq-faiss tune`: its options and what it prints."""

from __future__ import annotations

import json
from typing import Any

import click

from .options import K_RESULTS, data_option, device_option, json_option, k_option, workers_option

COLUMNS = ("kind", "nlist", "nprobe", "k_factor", "recall", "ms_per_query")


@click.command("tune")
@click.argument("bundle", type=click.Path())
@data_option("queries", "Images like those you will search with")
@click.option("--recall", default=0.95, show_default=True, help="Wanted share of an exhaustive scan's results.")
@k_option(K_RESULTS, "Results a query.", "all of a smaller bundle")
@workers_option
@device_option
@json_option
def command(bundle: str, queries: str, recall: float, k: int | None, workers: int, device: str, as_json: bool) -> None:
    """Find the fastest index of BUNDLE's codes at a wanted recall, on your own queries."""
    from mecoq_faiss.jobs.tune import tune

    found = tune(bundle, queries, recall, k, workers=workers, device=device)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{found['items']} items, {found['queries']} queries, recall@{found['k']}, one thread, {found['simd']}")
    click.echo("  " + "".join(f"{name:>14}" for name in COLUMNS))
    for point in found["frontier"]:
        mark = "> " if point == found["winner"] else "  "
        click.echo(mark + "".join(f"{_text(point[name]):>14}" for name in COLUMNS))
    if not found["reached"]:
        click.echo(f"nothing reached a recall of {recall}: this is the most exact")
    click.echo(found["command"])


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
