"""Ctrl-C ends a command wherever it comes; a library leaves its host's hook alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

INTERRUPTED = """
import os, signal, time, weakref
import click
from mecoq_faiss_cli import main as cli

class Deleted:
    def __del__(self):
        {in_del}

def interrupt(_=None):
    os.kill(os.getpid(), signal.SIGINT)

@click.command()
def command():
    thing = Deleted()
    kept = weakref.ref(thing, {callback})
    del thing
    time.sleep(20)

cli.main = command
cli.run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
@pytest.mark.parametrize(("in_del", "callback"), [("interrupt()", None), ("pass", "interrupt")])
def test_an_interrupt_while_an_object_is_deleted_ends_the_command(in_del: str, callback: str | None) -> None:
    code = INTERRUPTED.format(in_del=in_del, callback=callback)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr.strip()) == (1, "Aborted!")


@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
def test_other_errors_are_told_as_before() -> None:
    code = INTERRUPTED.format(in_del="raise ValueError('of mine')", callback=None).replace("sleep(20)", "sleep(0)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert done.returncode == 0 and "ValueError: of mine" in done.stderr


def test_importing_the_package_leaves_the_hook_alone() -> None:
    code = "import sys, mecoq_faiss, mecoq_faiss_cli.main; print(sys.unraisablehook is sys.__unraisablehook__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
