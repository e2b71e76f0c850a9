"""The doctor's report: this machine's environment."""

from __future__ import annotations

from mecoq_faiss.jobs.doctor import doctor
from mecoq_faiss.runtime.environment import environment


def test_it_is_the_environment() -> None:
    assert doctor() == environment()
