"""Drift: each measure against a count by hand or by loop, the verdict, and digits that were never seen."""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sklearn.datasets import load_digits

from mecoq_faiss import ModelConfig, TrainConfig, export_index, load_encoder, train, update
from mecoq_faiss.bundle import drift as drift_module
from mecoq_faiss.bundle.drift import (
    BITS,
    DRAWS,
    OUTLYING,
    above,
    best_scores,
    divergence,
    jensen_shannon,
    measure_drift,
    outliers,
    verdict,
)
from mecoq_faiss.bundle.folder import read_manifest
from mecoq_faiss.bundle.segments import write_together
from mecoq_faiss.index.codes import decode_codes

rng = np.random.default_rng(0)
M, K, d = 3, 8, 4
books = rng.normal(size=(M, K, d)).astype(np.float32)
books /= np.linalg.norm(books, axis=2, keepdims=True)
OLD, NEW = (rng.integers(0, K, (n, M), dtype=np.uint8) for n in (70, 23))


def test_the_chance_to_be_above_counts_pairs_and_ties_half() -> None:
    new, old = rng.integers(0, 6, 23).astype(np.float32), rng.integers(0, 5, 70).astype(np.float32)
    wins = sum(float(a > b) + 0.5 * float(a == b) for a in new for b in old)
    a, low, high = above(new, old)
    assert a == pytest.approx(wins / (23 * 70))
    assert low == pytest.approx(2 * a - high) and low < a < high
    assert above(np.array([2.0]), np.array([1.0])) == (1.0, 1.0, 1.0)


def test_its_interval_is_as_wide_as_chance() -> None:
    many = np.random.default_rng(1)
    found = np.array([above(many.normal(size=40), many.normal(size=60)) for _ in range(400)])
    covered = ((found[:, 1] <= 0.5) & (found[:, 2] >= 0.5)).mean()
    assert 0.92 <= covered <= 0.98
    assert (found[:, 2] - found[:, 1]).mean() == pytest.approx(2 * 1.96 * found[:, 0].std(), rel=0.1)


def test_jensen_shannon_in_bits() -> None:
    p, q = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    assert jensen_shannon(p, q) == pytest.approx(0.5)  # 1 bit and 0 bits
    p, q = rng.dirichlet(np.ones(K), M), rng.dirichlet(np.ones(K), M)
    middle = (p + q) / 2
    expected = ((p * np.log2(p / middle)).sum() + (q * np.log2(q / middle)).sum()) / 2 / M
    assert jensen_shannon(p, q) == pytest.approx(expected)


@pytest.mark.parametrize("size", [23, 70])
def test_the_divergence_is_that_beyond_equal_draws(size: int) -> None:
    new = np.concatenate([NEW, NEW, NEW])[:size]
    size = min(len(new), 35)
    same = np.random.default_rng(5)
    found, chance = [], []

    def shares(codes: np.ndarray) -> np.ndarray:
        return np.array([[np.mean(codes[:, m] == k) for k in range(K)] for m in range(M)])

    for _ in range(DRAWS):
        apart = same.choice(70, size, replace=False)
        drawn = new[same.choice(len(new), size, replace=False)]
        rest = shares(np.delete(OLD, apart, axis=0))
        found.append(jensen_shannon(shares(drawn), rest))
        chance.append(jensen_shannon(shares(OLD[apart]), rest))
    bits, noise = divergence(OLD, new, K, np.random.default_rng(5))
    assert bits == pytest.approx(np.mean(found) - np.mean(chance)) and noise == pytest.approx(np.std(chance))


def test_equal_collections_diverge_by_nothing_on_average() -> None:
    many = np.random.default_rng(2)
    draws = [many.integers(0, K, (90, M), dtype=np.uint8) for _ in range(200)]
    bits = [divergence(codes[:60], codes[60:], K, many)[0] for codes in draws]
    assert abs(np.mean(bits)) < 3 * np.std(bits) / np.sqrt(200)
    assert divergence(np.zeros((60, M), np.uint8), np.ones((30, M), np.uint8), K, many) == (1.0, 0.0)


def test_best_scores_are_those_of_a_loop() -> None:
    def score(a: np.ndarray, b: np.ndarray) -> float:
        return sum(float(books[m, a[m]] @ books[m, b[m]]) for m in range(M))

    rows = np.random.default_rng(3).permutation(70)[:23]
    new, old = best_scores(partial(decode_codes, books), OLD, NEW, np.random.default_rng(3))
    np.testing.assert_allclose(new, [max(score(a, b) for b in OLD) for a in NEW], rtol=1e-5)
    expected = [max(score(OLD[i], OLD[j]) for j in range(70) if j != i) for i in rows]
    np.testing.assert_allclose(old, expected, rtol=1e-5)
    new, old = best_scores(partial(decode_codes, books), OLD, np.tile(NEW, (30, 1)), np.random.default_rng(3))
    assert (len(new), len(old)) == (500, 70)


@pytest.mark.parametrize("neighbors", [5, 69])
def test_outliers_are_those_of_a_loop(neighbors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_module, "NEIGHBORS", neighbors)
    monkeypatch.setattr(drift_module, "LOOKED_UP", 11)

    def best(code: np.ndarray, without: int) -> list[tuple[float, int]]:
        scores = [(sum(float(books[m, code[m]] @ books[m, other[m]]) for m in range(M)), i)
                  for i, other in enumerate(OLD) if i != without]  # fmt: skip
        return sorted(scores, reverse=True)[:neighbors]

    def mean(found: list[tuple[float, int]]) -> float:
        return float(np.mean([score for score, _ in found]))

    own = [best(code, i) for i, code in enumerate(OLD)]
    new, old = outliers(partial(decode_codes, books), OLD, NEW, rng)
    assert (len(new), len(old)) == (23, 70)
    for found, lists in ((old, own), (new, [best(code, -1) for code in NEW])):
        expected = [np.mean([mean(own[i]) for _, i in near]) - mean(near) for near in lists]
        # of equal scores any may be a neighbor
        assert np.mean(np.isclose(found, expected, atol=1e-5)) > 0.5
        assert abs(np.mean(found - np.array(expected))) < 0.05


def test_one_known_class_is_no_outlier_and_what_lies_between_classes_is() -> None:
    many = np.random.default_rng(4)
    centers = many.integers(0, K, (5, M))
    codes = np.where(many.random((400, M)) < 0.8, centers[many.integers(0, 5, 400)], many.integers(0, K, (400, M)))
    one = np.where(many.random((100, M)) < 0.8, centers[0], many.integers(0, K, (100, M)))
    between = many.integers(0, K, (100, M))
    of_one, of_between = (
        measure_drift(books, codes.astype(np.uint8), np.ones(400, np.float32), new.astype(np.uint8),
                      np.ones(100, np.float32))
        for new in (one, between)
    )  # fmt: skip
    assert of_one["divergence"] > BITS and not verdict(of_one)[0]
    assert of_between["divergence"] > BITS and verdict(of_between)[0]


def test_the_verdict() -> None:
    drift: dict[str, Any] = {
        "new": 50, "divergence": 0.1, "divergence_noise": 0.01, "outlying": 0.6, "outlying_low": 0.5
    }  # fmt: skip
    assert verdict(drift) == (
        True,
        "retraining is due: of 50 new images the use of codewords differs by 0.100 bits (limit 0.030), "
        "and the chance that one is more of an outlier than an old one is 0.60; "
        "unless they are all of one kind that the old ones have too",
    )
    assert verdict(drift | {"divergence_noise": 0.034})[0] is False
    assert verdict(drift | {"divergence": BITS, "divergence_noise": 0.0})[0] is False
    retrain, evidence = verdict(drift | {"outlying_low": OUTLYING})
    assert not retrain and evidence.startswith("the new images fit the codes: ") and "but the chance" in evidence


DIGITS, LABELS = load_digits(return_X_y=True)


def save(path: Path, rows: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = DIGITS[rows].astype(np.float32)
        file["paths"] = [f"digit-{row}" for row in rows]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    """A run on 600 of the digits 0 to 6, rows of these, of the other ones of 0 to 6, and of 7 to 9."""
    folder = tmp_path_factory.mktemp("drift")
    order = np.random.default_rng(0).permutation(len(LABELS))
    known, unseen = order[LABELS[order] < 7], order[LABELS[order] >= 7]
    save(folder / "x.h5", known[:600])
    model = ModelConfig(backbone="features", weights="none", feature_dim=64, hidden=64, D=32)
    train(folder / "x.h5", folder / "run", model, TrainConfig(epochs=15, batch_size=200))
    return folder, known[:600], known[600:], unseen


def test_unseen_digits_are_told_and_others_are_not(
    digits: tuple[Path, np.ndarray, np.ndarray, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, old, other, unseen = digits
    bundle, data = tmp_path / "bundle", tmp_path / "x.h5"
    export_index(folder / "run", folder / "x.h5", bundle)
    caplog.set_level(logging.INFO, "mecoq_faiss")

    def follow(rows: np.ndarray) -> tuple[dict[str, Any], list[str]]:
        save(data, rows)
        caplog.clear()
        drift = update(bundle, data)["drift"]
        assert read_manifest(bundle)["history"][-1]["drift"] == drift == json.loads(json.dumps(drift))
        said = [record for record in caplog.records if record.getMessage() == drift["evidence"]]
        return drift, [record.levelname for record in said]

    few, level = follow(np.concatenate([old, other[:19]]))
    assert few == {
        "new": 19, "retrain": False,
        "evidence": "too few new images to judge whether they fit the codes: 19, 20 are needed",
    }  # fmt: skip
    same, level = follow(np.concatenate([old, other[:140]]))
    assert (same["new"], same["old"], same["retrain"], level) == (121, 600, False, ["INFO"])
    assert same["evidence"].startswith("the new images fit the codes: ")
    strange, level = follow(np.concatenate([old, other[:140], unseen[:121]]))
    assert (strange["new"], strange["old"], strange["retrain"], level) == (121, 600, True, ["WARNING"])
    assert strange["evidence"].startswith("retraining is due: ")
    again, _ = follow(np.concatenate([old, other[:140], unseen[:300]]))
    assert again["old"] == 600 and again["retrain"], "what an earlier update added does not count as old"
    save(data, np.concatenate([old[:15], other[:140], unseen[:300]]))
    assert "drift" not in update(bundle, data), "nothing was encoded"
    left, _ = follow(np.concatenate([old[:15], other[:200], unseen[:300]]))
    assert (left["old"], left["retrain"]) == (15, False) and "few images of the export" in left["evidence"]


def test_measures_are_those_of_the_items(
    digits: tuple[Path, np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    folder, old, other, unseen = digits
    export_index(folder / "run", folder / "x.h5", tmp_path / "bundle")
    save(tmp_path / "x.h5", np.concatenate([old[100:], other[:30], unseen[:30]]))
    drift = update(tmp_path / "bundle", tmp_path / "x.h5")["drift"]
    write_together(tmp_path / "bundle", tmp_path / "items.h5")
    with h5py.File(tmp_path / "items.h5") as file:
        codes, error = file["codes"][:], file["error"][:]
    encoder = load_encoder(tmp_path / "bundle")
    z = encoder.encode(DIGITS[old[:100]].astype(np.float32))  # gone, but of the export
    first = encoder.codes(z)
    books = encoder.model.quantizer.unit_codebooks().detach().cpu().numpy()
    reconstructed = np.concatenate([books[m, first[:, m]] for m in range(books.shape[0])], axis=1)
    first_error = ((z - reconstructed) ** 2).sum(axis=1) / books.shape[0]
    whole = np.concatenate([first, codes[:500]]), np.concatenate([first_error, error[:500]])
    expected = measure_drift(books, *whole, codes[500:], error[500:])
    assert (expected["new"], expected["old"]) == (60, 600)
    assert {name: drift[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_a_bundle_without_errors_tells_no_drift(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "version_0_1", tmp_path / "old")
    x = np.load(tmp_path / "old" / "features.npy")
    np.save(tmp_path / "old" / "features.npy", np.concatenate([x, x[:30] + 1]))
    done = update(tmp_path / "old" / "bundle-pq", tmp_path / "old" / "features.npy")
    assert done["added"] == 30 and "drift" not in done
    assert "drift" not in read_manifest(tmp_path / "old" / "bundle-pq")["history"][-1]
