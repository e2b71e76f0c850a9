"""The doctor's report: this machine's environment, and its risks."""

from __future__ import annotations

import pytest

from mecoq_faiss.jobs.doctor import doctor
from mecoq_faiss.runtime.environment import environment


def test_it_is_the_environment_and_the_risks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMP_DUPLICATE_LIB_OK", "1")
    found = doctor()
    assert any(line.startswith("KMP_DUPLICATE_LIB_OK") for line in found.pop("warnings"))
    assert found == environment()
