"""`compare`: the table and the report that it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mecoq_faiss.jobs.compare as compare_module
from mecoq_faiss.baselines import Baseline
from tests.cli.calls import fails, ok

SETTINGS = [
    Baseline("PQ", 2, nbits=4),
    Baseline("PQ", 2, nbits=4, preprocess="centred", metric="IP"),
    Baseline("ITQ", 2),
    Baseline("Flat"),
]


def test_help_says_what_divides_the_map() -> None:
    shown = " ".join(ok("compare", "--help").split())
    assert "relevant items found" in shown and "RQ, LSQ, PRQ and PLSQ" in shown and "--quick" in shown


def test_it_prints_a_table_and_writes_a_report(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learned row's precisions are those that `evaluate` prints."""
    monkeypatch.setattr(compare_module, "grid", lambda num_bytes, dim, quick, metric: SETTINGS)
    monkeypatch.setattr(compare_module, "warnings", lambda *_: ["few images"])
    arguments = (digits_run, "--queries", "digits", "--database", "digits", "-k", 100)
    shown = ok("compare", *arguments, "--out", tmp_path / "a")
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    head = shown.splitlines()[0].split()
    assert report["verdict"] in shown and head[:8] == ["Of", "one", "kind", "MAP@100", "all", "relevant", "P@1", "P@10"]
    assert "Exact neighbours  recall@10  recall@100  setting" in shown
    assert "\nwarning: few images\n" in shown
    assert [rank["n"] for rank in report["by_rank"]] == [1, 2, 3, 5, 10, 20, 50, 100]
    for row in (["best of the others", *(r["best"] for r in report["by_rank"])],
                ["MeCoQ above it by", *(f"{r['gain']:+.3f}" for r in report["by_rank"])]):  # fmt: skip
        assert " ".join(row) in " ".join(shown.split())
    printed = {line[:16].strip(): line[16:].strip() for line in ok("evaluate", *arguments).splitlines()}
    learned = report["methods"][0]["quality"]
    for n in (1, 10, 100):
        assert float(printed[f"precision at {n}"]) == pytest.approx(learned[f"precision_at_{n}"], abs=1e-4)
    assert json.loads(ok("compare", *arguments, "--out", tmp_path / "b", "--json"))["data"]["k"] == 100
    assert "exists" in fails("compare", *arguments, "--out", tmp_path / "b")
