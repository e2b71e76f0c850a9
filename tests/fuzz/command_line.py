"""The command line under test: any words after `mecoq-faiss`, up to the door of a job."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack, chdir
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NoReturn
from unittest.mock import patch

from tests.fuzz.harness import Reader

OLD = Path(__file__).parents[1] / "version_0_1"
REAL = {"settings_of_run", "query_names", "check_page", "describe", "describe_presets", "is_loopback"}  # they only read
REACHED = "reached the job"


def command_line(folder: Path) -> Reader:
    """NUL-separated words; exit 0, 1 with one line, or 2. Jobs that write or take long are not run."""
    from click.testing import CliRunner

    from mecoq_faiss_cli.main import COMMANDS, main

    names = [f"jobs.{command.replace('-', '_')}" for command in COMMANDS if command != "serve"]
    jobs = [import_module(f"mecoq_faiss.{name}") for name in [*names, "service.run", "service.keys"]]
    doors = [(job, name) for job in jobs for name, value in vars(job).items() if _is_job(value, job)]
    shutil.copytree(OLD / "bundle-pq", folder / "bundle")
    shutil.copytree(OLD / "run", folder / "run")
    shutil.copy(OLD / "encoded.h5", folder / "items.h5")
    (folder / "settings.toml").write_text("epochs = 3\n")

    def read(data: bytes) -> None:
        words = os.fsdecode(data).split("\0")
        if "--debug" in words:
            return
        with ExitStack() as stack:
            stack.enter_context(chdir(folder))
            for job, name in doors:
                stack.enter_context(patch.object(job, name, _door))
            result = CliRunner().invoke(main, words)
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        known = result.exception is None or isinstance(result.exception, SystemExit)
        whole = len(errors) == (result.exit_code != 0) or result.exit_code == 2
        if not known or result.exit_code not in (0, 1, 2) or "--debug shows" in result.stderr or not whole:
            raise AssertionError(f"exit {result.exit_code}: {result.output}") from result.exception
        if result.exit_code:
            raise ValueError(errors[0] if errors else "usage")

    return read


def _is_job(value: Any, module: ModuleType) -> bool:
    """Whether it is a function of a job's own that writes or takes long."""
    own = isinstance(value, FunctionType) and value.__module__ == module.__name__
    return own and not value.__name__.startswith("_") and value.__name__ not in REAL


def _door(*arguments: Any, **options: Any) -> NoReturn:
    raise ValueError(REACHED)


def command_lines() -> list[bytes]:
    """Words that reach each job."""
    lines = (
        "train --data digits --out new --set epochs=1 --bits 16 --config settings.toml --json",
        "export-index run --data digits --out new --index pqfs --refine --k-factor 3",
        "update bundle --data digits --dry-run", "add bundle a.png --root .", "remove bundle x --device cpu",
        "dedup bundle --threshold 1.5 --html page.html", "merge bundle run --out new", "split bundle --out new",
        "verify bundle --json", "encode run --data digits --out new.h5 --dtype none", "search bundle a.png -k 3",
        "evaluate bundle --queries digits -k 5", "compare run --queries a --database b --out c --seeds 2",
        "tune bundle --queries digits", "serve bundle --beside bundle --rate 3/minute --max-body 1MB --port 0",
        "serve bundle --api-keys keys --add-key ann --may-write",
        "info bundle", "info items.h5 --json", "info --kinds", "doctor --json",
    )  # fmt: skip
    return [b"\0".join(line.encode().split()) for line in lines]
