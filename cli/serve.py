"""The command `mecoq-faiss serve`: its options and what it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from .options import device_option

SIZES = {"": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


class Size(click.ParamType):
    """32MB, 500KB, 1000000 -> bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes of a SIZE, or click's usage error."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,12})\s*([KMG]B)?", value, re.IGNORECASE)
        if not found or not int(found[1]):
            self.fail(f"{value!r} is no size: write for example 32MB", param, ctx)
        return int(found[1]) * SIZES[(found[2] or "").upper()]


@click.command("serve")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--beside", type=click.Path(path_type=Path), help="Another bundle of the same images, shown beside it.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--images", type=click.Path(path_type=Path), help="The folder that the bundle's paths are relative to.")
@click.option(
    "--api-keys", type=click.Path(path_type=Path), help="File of keys; by default all may search, none write."
)
@click.option("--add-key", metavar="NAME", help="Make a key, add its hash to --api-keys, print it, and end.")
@click.option("--may-write", is_flag=True, help="With --add-key: it may add and remove items.")
@click.option("--workers", type=click.IntRange(min=-1), default=-1, show_default=True, help="Decoding processes.")
@click.option("--max-pixels", type=click.IntRange(min=1), default=50_000_000, show_default=True, help="Of an image.")
@click.option("--max-body", type=Size(), default="32MB", show_default=True, help="Of a request.")
@click.option("--rate", metavar="N/PERIOD", help="Searches and changes a client may ask for, such as 60/minute.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True, help="Seconds."
)
@device_option
@click.option("--ray", metavar="ADDRESS", help="Search shards in replicas on a Ray: local, auto or HOST:PORT.")
@click.option("--replicas", type=click.IntRange(min=1), default=2, show_default=True, help="With --ray, of each shard.")
@click.option("--runtime", type=click.Choice(["auto", "torch", "onnx"]), default="auto", show_default=True)
def command(
    bundle: Path,
    beside: Path | None,
    host: str,
    port: int,
    images: Path | None,
    api_keys: Path | None,
    add_key: str | None,
    may_write: bool,
    workers: int,
    max_pixels: int,
    max_body: int,
    rate: str | None,
    timeout: float,
    device: str,
    ray: str | None,
    replicas: int,
    runtime: str,
) -> None:
    """Search BUNDLE over HTTP, and on a page of its own (extra: serve)."""
    from mecoq_faiss.service.settings import Settings

    if add_key is not None:
        from mecoq_faiss.service.keys import add_key as make_key

        if api_keys is None:
            raise click.UsageError("--add-key needs --api-keys FILE, to which the key's hash is added")
        click.echo(make_key(api_keys, add_key, "write" if may_write else "read"))
        return
    bundles = (bundle,) if beside is None else (bundle, beside)
    settings = Settings(
        bundles, images, api_keys, workers=workers, max_pixels=max_pixels, max_bytes=max_body, rate=rate,
        seconds=timeout, device=device, runtime=runtime,
    )  # fmt: skip
    if ray is None:
        from mecoq_faiss.service.run import serve

        serve(settings, host, port)
    else:
        from mecoq_faiss.cluster.serve import serve as serve_on_ray

        serve_on_ray(settings, host, port, ray=ray, replicas=replicas)
