"""The command `mecoq-faiss compare`: its options and what it prints."""

from __future__ import annotations

from collections.abc import Sequence

import click

from .options import K_MAP, data_option, device_option, json_option, k_option, workers_option


@click.command("compare")
@click.argument("run", metavar="RUN|BUNDLE", type=click.Path())
@data_option("queries", "Query images")
@data_option("database", "Database to search")
@click.option("--out", required=True, type=click.Path(), help="Folder of the report, to be made.")
@k_option(K_MAP, "Cut-off of MAP@k, which divides by the relevant items found.", "the whole database")
@click.option("--seeds", default=1, show_default=True, help="Fits of a baseline, trainings of the run's settings.")
@click.option("--items", default=200_000, show_default=True, help="Cut a larger database to a sample of so many.")
@click.option("--quick", is_flag=True, help="A first answer: fewer settings of the baselines, chosen in fewer rounds.")
@workers_option
@device_option
@json_option
def command(
    run: str, queries: str, database: str, out: str, k: int | None, seeds: int, items: int, quick: bool, workers: int,
    device: str, as_json: bool,
) -> None:  # fmt: skip
    """Is it better than FAISS's own codes, on your images, at the same bytes? Writes OUT/report.html and report.json.

    A table and an advice for each of two goals: what is of one kind (by labels, or else altered copies), and the exact
    neighbours by uncompressed features.

    Beside PQ and OPQ these are the additive quantizers RQ, LSQ, PRQ and PLSQ, RaBitQ (above 8 bytes), ITQ and LSH. Each
    has the best of several hundred settings, chosen on held-out items of the database in three rounds; what is slow to
    train, LSQ above all, takes minutes. --quick tries about a fourth of them.
    """
    import json

    from mecoq_faiss.comparison.tables import by_rank, goal_tables
    from mecoq_faiss.jobs.compare import compare

    report = compare(
        run, queries, database, out, k, seeds=seeds, items=items, quick=quick, workers=workers, device=device
    )
    if as_json:
        click.echo(json.dumps(report))
        return
    for table in goal_tables(report):
        names = [table["goal"], *table["rows"][0]["cells"], "setting"]
        _print(names, [[row["label"], *row["cells"].values(), row["setting"]] for row in table["rows"]])
    ranks = by_rank(report)
    if ranks is not None:
        click.echo(ranks["title"])
        _print(ranks["names"], ranks["rows"])
    click.echo(report["verdict"])
    for line in report["warnings"]:
        click.echo(f"warning: {line}")
    click.echo(f"{out}/report.html")


def _print(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A line a row, the columns right-aligned but for the first, and for a last one of settings."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for first, *cells in (names, *rows):
        aligned = [f"{first:<{widths[0]}}", *(f"{cell:>{n}}" for cell, n in zip(cells, widths[1:], strict=True))]
        if names[-1] == "setting":
            aligned[-1] = cells[-1]
        click.echo("  ".join(aligned))
    click.echo()
