"""Tuning: wishes that cannot be met are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mecoq_faiss import export_index
from mecoq_faiss.jobs.tune import tune


def test_bad_wishes_are_refused(digits_run: Path, tmp_path: Path) -> None:
    export_index(digits_run, "digits", tmp_path / "bundle")
    with pytest.raises(ValueError, match="recall=0"):
        tune(tmp_path / "bundle", "digits", 0)
    with pytest.raises(ValueError, match="1 to 1500"):
        tune(tmp_path / "bundle", "digits", k=1501)
    with pytest.raises(FileNotFoundError, match="not a bundle"):
        tune(tmp_path, "digits")
