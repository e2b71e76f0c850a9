"""The command `mecoq-faiss dedup`: its options and what it prints."""

from __future__ import annotations

import json
import sys

import click

from .options import data_option, device_option, json_option, printable, workers_option


@click.command("dedup")
@click.argument("bundle", type=click.Path())
@data_option("images", "The collection, to confirm what codes find by new embeddings", required=False)
@click.option(
    "--threshold",
    type=float,
    help="Least score of two codes, at most M (of additive codes a cosine).  [default: 0.98 * M, or 0.98]",
)
@click.option(
    "--cosine",
    type=float,
    default=0.98,
    show_default=True,
    help="With --images, the least mean inner product of two embeddings' segments (of additive codes their cosine).",
)
@click.option(
    "--html", metavar="FILE", type=click.Path(), help="Write a page of the groups, with pictures of --images."
)
@click.option("--remove", "drop", is_flag=True, help="Keep the lowest id of each group, and remove the others.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@workers_option
@device_option
@json_option
def command(
    bundle: str,
    images: str | None,
    threshold: float | None,
    cosine: float,
    html: str | None,
    drop: bool,
    yes: bool,
    workers: int,
    device: str,
    as_json: bool,
) -> None:
    """Find groups of duplicates in BUNDLE: equal files, and items whose codes stand for nearly the same.

    Codes are coarse. With --images, what they bring together is encoded again, and only what the embeddings confirm is
    a group. Images themselves are never removed.
    """
    from mecoq_faiss.jobs.dedup import check_page, dedup, write_page
    from mecoq_faiss.jobs.remove import remove

    if drop and not yes and not _can_ask():
        raise click.ClickException("--remove asks before it removes, and this is no terminal: add --yes")
    if html is not None:
        check_page(html)
    groups = dedup(bundle, images, threshold, cosine=cosine, workers=workers, device=device)
    if html is not None:
        write_page(html, bundle, groups, images)
    if not as_json:
        for number, group in enumerate(groups, 1):
            click.echo(f"group {number}")
            for item in group:
                says = "first" if item is group[0] else "exact" if item.exact else "near"
                click.echo(f"{item.id:>8}  {says:<5}  {item.score:8.4f}  {printable(item.path)}")
        click.echo(f"{len(groups)} groups of {sum(map(len, groups))} items")
    later = [item.id for group in groups for item in group[1:]]
    removed = 0
    if drop:
        if later and not yes:
            click.confirm(f"Remove {len(later)} items of {bundle}?", abort=True, err=True)
        # of no items, this clears away what a killed removal left
        removed = remove(bundle, later, device=device)["removed"]
    if as_json:
        click.echo(json.dumps({"groups": [[item._asdict() for item in group] for group in groups], "removed": removed}))
    elif drop:
        click.echo(f"{removed} removed")


def _can_ask() -> bool:
    return sys.stdin.isatty()
