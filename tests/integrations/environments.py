"""An environment of its own for each program people use, in which the tests of that program run: make clients.

Each sees what this environment has (torch, one FAISS) and adds the program. Programs that would bring a second FAISS,
or pin older versions of what is there, are installed without their dependencies, and with those that they need.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).parents[2]


class Client(NamedTuple):
    """What pip installs, with its dependencies and without."""

    module: str
    packages: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()


CLIENTS = {
    "langchain": Client("langchain_community", ("langchain-community>=0.4",)),
    "llamaindex": Client(
        "llama_index.vector_stores.faiss", ("llama-index-core>=0.14", "llama-index-vector-stores-faiss>=0.7")
    ),
    "huggingface": Client("datasets", ("datasets>=5", "huggingface_hub>=1.0")),
    "haystack": Client("haystack", ("haystack-ai>=3.4",), ("faiss-haystack>=3",)),  # which would bring faiss-cpu
    "txtai": Client("txtai", ("transformers>=5.9", "msgpack", "regex"), ("txtai>=9.14",)),  # and so would this
    "lance": Client("lance", ("pylance>=14",)),
    "clip_retrieval": Client(
        "autofaiss",
        ("flask", "flask-restful", "flask-cors", "pandas", "pyarrow", "fire", "termcolor"),
        ("clip-retrieval>=2.45", "autofaiss>=2.18", "embedding-reader"),  # they pin numpy < 2, and run on 2.4
    ),
}


def environment(name: str, folder: Path) -> Path:
    """The Python of a program's environment, made where it is not there yet."""
    python = folder / name / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    (own / "zz_base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if not (own / "mecoq_faiss_cli").exists():  # which an editable install maps, there
        (own / "mecoq_faiss_cli").symlink_to(ROOT / "cli")
    for packages, options in ((CLIENTS[name].packages, []), (CLIENTS[name].alone, ["--no-deps"])):
        if packages:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *options, *packages], check=True)
    subprocess.run([python, "-c", f"import {CLIENTS[name].module}"], check=True)  # or its tests would be skipped
    return python


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CLIENTS)))
@click.option("--folder", type=click.Path(path_type=Path), default=ROOT / "build" / "clients", show_default=True)
def main(names: tuple[str, ...], folder: Path) -> None:
    """Run the tests of some programs, by default all, each in its environment under --folder."""
    failed = []
    for name in names or CLIENTS:
        click.echo(f"== {name}")
        tests = ROOT / "tests" / "integrations" / f"test_{name}.py"
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
        if subprocess.run([environment(name, folder), "-m", "pytest", "-q", tests], cwd=ROOT, env=env).returncode:
            failed.append(name)
    if failed:
        raise click.ClickException(f"not right: {', '.join(failed)}")


if __name__ == "__main__":
    main()
