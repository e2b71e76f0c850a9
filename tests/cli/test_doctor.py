"""`doctor`: prints the report of this machine's environment."""

from __future__ import annotations

import json

import faiss
import pytest

from mecoq_faiss.jobs.doctor import doctor
from mecoq_faiss.runtime import environment as module
from tests.cli.calls import ok


def test_the_report_is_printed() -> None:
    found = json.loads(ok("doctor", "--json"))
    assert found == doctor() and found["faiss"] == faiss.__version__ and "simd" in found
    lines = ok("doctor").splitlines()
    assert [line.split("  ")[0].replace(" ", "_") for line in lines] == [name.replace(" ", "_") for name in doctor()]
    assert any(line.split() == ["faiss", faiss.__version__] for line in lines)


def test_problems_are_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shared_environment", lambda: "two FAISS wheels: keep one")
    assert json.loads(ok("doctor", "--json"))["problems"] == "two FAISS wheels: keep one"
