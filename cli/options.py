"""Options and output that commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

SRC = "a folder, a .tar, an .h5/.npy file of features, or NAME[:ROOT][#SPLIT] (digits, cifar10-ii:ROOT, ...)"

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=-1),
    default=-1,
    show_default=True,
    help="Image decoding processes; -1 chooses.",
)


def data_option(name: str, what: str, **more: Any) -> Callable:
    return click.option(f"--{name}", required=more.pop("required", True), metavar="SRC", help=f"{what}: {SRC}.", **more)


def show(values: dict[str, Any], as_json: bool) -> None:
    """Print a result: JSON for machines, else one `name: value` a line."""
    if as_json:
        click.echo(json.dumps(values))
        return
    width = max(len(name) for name in values)
    for name, value in values.items():
        text = f"{value:.4f}" if isinstance(value, float) else json.dumps(value) if isinstance(value, dict) else value
        click.echo(f"{name.replace('_', ' '):<{width}}  {text}")
