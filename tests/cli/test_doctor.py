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
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert warnings == [f"warning: {warning}" for warning in found.pop("warnings")]
    shown = lines[: len(lines) - len(warnings)]
    assert [line.split("  ")[0].replace(" ", "_") for line in shown] == [name.replace(" ", "_") for name in found]
    assert any(line.split() == ["faiss", faiss.__version__] for line in lines)


def test_warnings_change_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    assert "warning: LD_PRELOAD=libother.so" in ok("doctor")
    assert any("libother.so" in warning for warning in json.loads(ok("doctor", "--json"))["warnings"])


def test_problems_are_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shared_environment", lambda: "two FAISS wheels: keep one")
    assert json.loads(ok("doctor", "--json"))["problems"] == "two FAISS wheels: keep one"
