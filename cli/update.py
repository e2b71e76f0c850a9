"""The command `mecoq-faiss update`: its options and what it prints."""

from __future__ import annotations

import click

from .options import data_option, device_option, json_option, metadata_option, show, workers_option


@click.command("update")
@click.argument("bundle", type=click.Path())
@data_option("data", "The collection as it is now; of a built-in protocol, its database")
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@click.option("--compact", is_flag=True, help="Write all items into one file again.")
@metadata_option
@workers_option
@device_option
@json_option
def command(
    bundle: str,
    data: str,
    dry_run: bool,
    compact: bool,
    metadata: str | None,
    workers: int,
    device: str,
    as_json: bool,
) -> None:
    """Make a bundle that of its collection as it is now.

    Only what is new or altered is encoded; what is gone is removed; what was renamed keeps its code and id. The new
    generation takes the old one's place in one step. A stopped update continues when it is called again.
    """
    from mecoq_faiss.jobs.update import update

    done = update(
        bundle, data, dry_run=dry_run, compact=compact, metadata=metadata, workers=workers, device=device
    )  # fmt: skip
    show(done, as_json)
