"""The command `mecoq-faiss doctor`: its options and what it prints."""

from __future__ import annotations

import click

from .options import json_option, show


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Report versions, FAISS wheels, GPUs, threads and SIMD level."""
    from mecoq_faiss.jobs.doctor import doctor

    show(doctor(), as_json)
