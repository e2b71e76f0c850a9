"""The experiment on drift, small: what it writes is complete, and counts what the verdict says of each draw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks import drift
from mecoq_faiss.bundle.drift import verdict


def test_it_writes_a_row_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = load_digits(return_X_y=True)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"], file["labels"] = x[:700].astype(np.float32), y[:700]
    monkeypatch.setattr(drift, "COUNTS", (30,))
    monkeypatch.setattr(drift, "EPOCHS", 2)
    out, every = tmp_path / "drift.json", tmp_path / "every.json"
    arguments = f"drift --data digits={tmp_path}/x.h5 --splits 1 --draws 2 --out {out} --every {every}".split()
    monkeypatch.setattr(sys, "argv", arguments)
    drift.main()
    content, draws = json.loads(out.read_text()), json.loads(every.read_text())
    assert content["draws"] == 2 and {row["data"] for row in content["rows"]} == {"digits"}
    keys = {(row["bytes"], row["bundle"], row["kind"]) for row in content["rows"]}
    assert (
        len(keys) == len(content["rows"]) and {(4, "other", "unseen classes"), (8, "trained", "same classes")} <= keys
    )
    for row in content["rows"]:
        own = [draw for draw in draws if all(draw[name] == row[name] for name in ("bytes", "bundle", "new", "kind"))]
        assert row["repeats"] == len(own) == 2
        assert row["retrain"] == sum(draw["retrain"] for draw in own) == sum(verdict(draw)[0] for draw in own)
        assert row["outlying"][0] == pytest.approx(np.mean([draw["outlying"] for draw in own]), abs=1e-4)
