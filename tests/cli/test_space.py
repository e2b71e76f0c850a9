"""An address space that is too small for the libraries is one line, and no crash of theirs."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("resource")


@pytest.mark.parametrize("mib", [300, 1500])
def test_a_small_address_space_is_one_line(mib: int) -> None:
    limited = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({mib} << 20,) * 2)\n"
        "from mecoq_faiss_cli.main import run\n"
        "run()\n"
    )
    done = subprocess.run([sys.executable, "-c", limited, "verify", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    if mib == 300:
        assert done.stderr.endswith("do not fit into 300 MiB of address space: raise ulimit -v\n")
