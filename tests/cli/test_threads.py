"""Threads of the command's process sleep while they wait; the library leaves its host's alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from mecoq_faiss_cli.threads import wait_passively


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp's own report")
@pytest.mark.parametrize(
    ("said", "read"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "7"}, "'7'")],
)
def test_threads_of_the_command_sleep_while_they_wait(said: dict[str, str], read: str) -> None:
    """As OpenMP itself reports what it has read; what the user set stays."""
    free = {n: v for n, v in os.environ.items() if n not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = "from mecoq_faiss_cli.main import main; main(['doctor', '--json'])"
    environment = free | {"OMP_DISPLAY_ENV": "verbose"} | said
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    found = re.findall(r"(?:OMP_WAIT_POLICY|GOMP_SPINCOUNT) = .*", done.stderr)
    assert found and any(read in line for line in found), done.stderr
    assert not any("PASSIVE" in line for line in found) or not said.get("OMP_WAIT_POLICY")


def test_a_library_leaves_the_threads_of_others_alone() -> None:
    code = "from mecoq_faiss import train; import os; print(os.environ.get('OMP_WAIT_POLICY'))"
    free = {n: v for n, v in os.environ.items() if n != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], env=free, capture_output=True, text=True)
    assert done.stdout.strip() == "None", done.stderr


@pytest.mark.parametrize(
    ("loaded", "environment", "policy"),
    [
        (False, {}, "passive"),
        (False, {"OMP_WAIT_POLICY": "active"}, "active"),
        (False, {"GOMP_SPINCOUNT": "7"}, None),
        (True, {}, None),  # torch has read the environment already
    ],
)
def test_the_policy_is_set_where_it_is_free(
    loaded: bool, environment: dict[str, str], policy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    modules = {name: module for name, module in sys.modules.items() if name != "torch"}
    monkeypatch.setattr(sys, "modules", modules | ({"torch": sys} if loaded else {}))
    monkeypatch.setattr(os, "environ", dict(os.environ))  # what is set here stays here
    wait_passively()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
