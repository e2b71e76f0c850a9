"""Options and output that commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import click

SRC = (
    "a folder, a .tar or .parquet of images, or many such ('shards/{000..099}.tar'), an .h5/.npy file of features, a "
    "URL that fsspec knows, or NAME[:ROOT][#SPLIT] (digits, cifar10-ii:ROOT, ...)"
)

PROTOCOLS = ("flickr25k", "cifar10-i", "cifar10-ii", "nuswide")
# what `mecoq_faiss.presets`, `.index` and `.config` say, whose import takes seconds
PRESETS = (
    "default", *(f"{whose}{name}-{bits}" for whose in ("", "release-") for name in PROTOCOLS for bits in (16, 32, 64))
)  # fmt: skip
CODES = ("product", "additive")
OBJECTIVES = ("semantic", "both", "fine", "preserve")
METRICS = ("cosine", "ip", "l2")
KINDS = ("pq", "pqfs", "ivfpq", "ivfpqfs", "ivfpq-all")
K_MAP, K_RESULTS = 1000, 10
UNITS = {"s": 1, "m": 60, "h": 3600}

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
metadata_option = click.option(
    "--metadata",
    type=click.Path(),
    help="Columns of the items: a .csv, .parquet or .jsonl with path or id, or an .h5 of features (extra: metadata).",
)
ray_option = click.option(
    "--ray",
    metavar="ADDRESS|local",
    help="Encode by the workers of a Ray cluster (auto, HOST:PORT), or of a Ray on this machine (extra: cluster).",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=-1),
    default=-1,
    show_default=True,
    help="Image decoding processes; -1 chooses.",
)


def data_option(name: str, what: str, **more: Any) -> Callable:
    """The option --NAME of a source; `what` it is begins its help."""
    return click.option(f"--{name}", required=more.pop("required", True), metavar="SRC", help=f"{what}: {SRC}.", **more)


class Duration(click.ParamType):
    """90s, 30m, 1.5h -> seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of a TIME, or click's usage error."""
        if isinstance(value, float):
            return value
        number, unit = value[:-1], value[-1:]
        if unit not in UNITS or not re.fullmatch(r"\d+(\.\d+)?", number) or not float(number):
            self.fail(f"{value!r} is no time: write for example 90s, 30m or 2h", param, ctx)
        return float(number) * UNITS[unit]


def k_option(default: int, what: str, whole: str) -> Callable:
    """The option -k; `whole` says what bounds its default."""
    return click.option("-k", type=int, help=f"{what}  [default: {default}, or {whole}]")


def printable(text: str) -> str:
    """A text of others, such as a file's name, in one line that a terminal can show and does not obey."""
    return text if text.isprintable() else repr(text)[1:-1]


def show(values: dict[str, Any], as_json: bool) -> None:
    """Print a result: JSON for machines, else one `name: value` a line."""
    if as_json:
        click.echo(json.dumps(values))
        return
    width = max(len(name) for name in values)
    for name, value in values.items():
        text = f"{value:.4f}" if isinstance(value, float) else json.dumps(value) if isinstance(value, dict) else value
        click.echo(f"{printable(name.replace('_', ' ')):<{width}}  {printable(str(text))}")
