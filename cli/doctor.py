"""The command `mecoq-faiss doctor`: its options and what it prints."""

from __future__ import annotations

import click

from .options import json_option, show


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Report versions, FAISS wheels, GPUs, threads and SIMD level.

    And warn of what makes results unrepeatable, or files unsafe.
    """
    from mecoq_faiss.jobs.doctor import doctor

    found = doctor()
    warnings = [] if as_json else found.pop("warnings")
    show(found, as_json)
    for warning in warnings:
        click.echo(f"warning: {warning}")
