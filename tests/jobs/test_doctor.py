"""The doctor's report: this machine's environment, from Python and from the command line."""

from __future__ import annotations

import json

import faiss
import pytest
from click.testing import CliRunner

from mecoq_faiss.jobs.doctor import doctor
from mecoq_faiss.runtime import environment as module
from mecoq_faiss.runtime.environment import environment
from mecoq_faiss_cli.main import main


def test_it_is_the_environment() -> None:
    assert doctor() == environment()


def test_the_command_prints_it() -> None:
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout) == doctor()
    lines = CliRunner().invoke(main, ["doctor"]).stdout.splitlines()
    assert [line.split("  ")[0].replace(" ", "_") for line in lines] == [name.replace(" ", "_") for name in doctor()]
    assert any(line.split() == ["faiss", faiss.__version__] for line in lines)


def test_problems_are_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shared_environment", lambda: "two FAISS wheels: keep one")
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["problems"] == "two FAISS wheels: keep one"
