"""Spectral, semantic and spherical hashing: what each paper says of its bits, and neighbors found by few of them."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from benchmarks.paper import shallow

QUICK = {"SH": {"hidden": 32, "pretraining": 100}}


def clusters(n: int) -> tuple[np.ndarray, np.ndarray]:
    """4 directions that tell 5 classes apart, 124 of noise, rotated; and the classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 5
    told = 4 * rng.normal(size=(5, 4))[labels] + rng.normal(size=(n, 4)) / 2
    rotation, _ = np.linalg.qr(rng.normal(size=(128, 128)))
    return (np.concatenate([told, rng.normal(size=(n, 124))], axis=1) @ rotation).astype(np.float32), labels


@pytest.mark.parametrize("method", shallow.METHODS)
def test_they_find_more_of_a_class_than_random_hyperplanes(method: str) -> None:
    x, labels = clusters(400)
    head = shallow.fit_shallow(method, x, 8, 0, QUICK.get(method))
    _, I = head.index(x).search(head.queries(x), 20)
    x -= x.mean(axis=0)
    lsh = faiss.IndexLSH(x.shape[1], 8)
    lsh.add(x)
    _, at_random = lsh.search(x, 20)
    found, by_chance = ((labels[places] == labels[:, None]).mean() for places in (I, at_random))
    assert found > by_chance + 0.1, (found, by_chance)


@pytest.mark.parametrize("method", shallow.METHODS)
def test_equal_seeds_give_equal_codes(method: str) -> None:
    x, _ = clusters(200)
    codes, again = (shallow.fit_shallow(method, x, 16, 3, QUICK.get(method)).queries(x) for _ in range(2))
    assert codes.shape == (200, 2) and codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, again)


def test_spectral_bits_of_a_rectangle_are_its_longest_waves() -> None:
    """Sides of 4 and 1.5: waves of half a period on 4, then 2 halves, then one on 1.5, then 3 on 4."""
    a, b = np.meshgrid(np.linspace(0, 4, 81), np.linspace(0, 1.5, 31))
    x = np.stack([a.ravel(), b.ravel()], axis=1).astype(np.float32)
    bits = shallow.spectral(x, 4, 0, {})(x)
    u, v = x[:, 0] / 4, x[:, 1] / 1.5
    want = np.stack([np.cos(np.pi * u), np.cos(2 * np.pi * u), np.cos(np.pi * v), np.cos(3 * np.pi * u)], axis=1)
    clear = np.abs(want).min(axis=1) > 0.02  # an axis may point either way
    for found, wave in zip(bits[clear].T, want[clear].T > 0, strict=True):
        assert (found == wave).all() or (found != wave).all()


def test_balls_hold_half_and_share_a_quarter() -> None:
    x = np.random.default_rng(0).normal(size=(2000, 12)).astype(np.float32)
    inside = shallow.spherical(x, 8, 0, shallow.default_settings("SphH"))(x).astype(float)
    np.testing.assert_allclose(inside.mean(axis=0), 0.5, atol=0.01)
    shared = (inside.T @ inside / len(x))[~np.eye(8, dtype=bool)]
    assert np.abs(shared - 0.25).mean() <= 0.1 * 0.25 and shared.std() <= 0.15 * 0.25


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="choose one of SpeH, SH, SphH"):
        shallow.fit_shallow("KSH", np.zeros((4, 2)), 8, 0)
