"""The group `mecoq-faiss`: each command is a module of its own, loaded when it is called."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Any

import click

from mecoq_faiss.runtime.missing import needing_torch

from .interrupts import deliver_again
from .memory import keep_freed_memory
from .options import printable
from .space import check_address_space
from .threads import wait_passively

COMMANDS = {
    "train": "Learn embedding and codebooks from unlabelled images.",
    "export-index": "Encode images and write a FAISS index with its encoder.",
    "export-encoder": "Write the encoder as one ONNX graph, for programs without torch.",
    "export-items": "Write a bundle's items, with their metadata, as one table (Parquet).",
    "update": "Make a bundle that of its collection as it is now: encode the new, remove the gone.",
    "add": "Add image files to a bundle.",
    "remove": "Remove items from a bundle, by path or id.",
    "dedup": "Find duplicates in a bundle, and remove them.",
    "merge": "Join bundles of one model.",
    "split": "Divide a bundle, by rows or by class.",
    "verify": "Compare a bundle's files with its manifest, and prove its index again.",
    "encode": "Encode images into embeddings and codes (HDF5).",
    "search": "Search a bundle with images or features.",
    "serve": "Search a bundle over HTTP, and on a page (extra: serve).",
    "evaluate": "MAP@k of a run or a bundle, by labels.",
    "compare": "A run beside PQ, OPQ, ITQ and LSH at equal bytes: a report.",
    "tune": "Find the fastest index at a wanted recall, on your own queries.",
    "info": "Describe a run, a bundle, an index or an encoded file; list presets and kinds.",
    "doctor": "Report versions, FAISS wheels, GPUs, threads, SIMD level.",
}
NO_MEMORY = "not enough memory: end other programs, or raise the limit (ulimit -v, or the container's)"


class _Group(click.Group):
    """Knows its commands without importing them; turns errors into one line and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return import_module(f".{name.replace('-', '_')}", __package__).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            check_address_space()
            with needing_torch("this command"):
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            sys.exit(1)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            lines = str(error).splitlines() or [type(error).__name__]
            if isinstance(error, MemoryError):
                raise click.ClickException(f"{NO_MEMORY} ({lines[0]})") from error
            known = isinstance(error, ValueError | OSError | ImportError | RuntimeError)
            hint = "" if known else f" ({type(error).__name__}; --debug shows where)"
            raise click.ClickException(printable(lines[0]) + hint) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="mecoq-faiss")
def main(debug: bool) -> None:
    """Learned product quantization for FAISS image search."""
    handler = logging.StreamHandler()
    logger = logging.getLogger("mecoq_faiss")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def run() -> None:
    """The console script: `main` in a process of its own."""
    keep_freed_memory()
    wait_passively()  # before a command imports torch
    deliver_again()
    main()


if __name__ == "__main__":  # python -m mecoq_faiss_cli.main, as launchers of several processes call it
    run()
