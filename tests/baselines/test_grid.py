"""The settings tried: each once, each one that its method has, and none that only repeats another."""

import pytest

from mecoq_faiss.baselines import grid
from mecoq_faiss.baselines.baseline import METHODS


@pytest.mark.parametrize(("num_bytes", "dim"), [(2, 64), (3, 512), (4, 1024), (8, 48), (16, 1024)])
@pytest.mark.parametrize("quick", [False, True])
def test_each_setting_once_at_its_bytes(num_bytes, dim, quick):
    settings = grid(num_bytes, dim, quick=quick)
    assert len(set(settings)) == len(settings) == len({setting.name for setting in settings})
    assert {setting.num_bytes for setting in settings} == {0, num_bytes}
    every = set(METHODS) - ({"RaBitQ"} if num_bytes <= 8 else set()) - ({"ITQ"} if 8 * num_bytes > dim else set())
    assert {setting.method for setting in settings} == every
    assert all((setting.width or 0) <= max(dim, setting.M) for setting in settings if setting.method != "OPQ")
    assert all(setting.width % setting.M == 0 for setting in settings if setting.width and "PQ" in setting.method)


def test_widths():
    assert {setting.width for setting in grid(4, 64)} == {None, 32, 64}
    assert {setting.width for setting in grid(4, 64, widths=[30]) if setting.method == "OPQ"} == {32}
    assert {setting.width for setting in grid(16, 1024) if setting.method == "RaBitQ"} == {64}


def test_a_norm_takes_a_byte_where_vectors_have_no_norm():
    additive = [setting for setting in grid(4, 64) if setting.method in ("RQ", "LSQ")]
    assert {setting.M for setting in additive if setting.metric == "L2"} == {3, 6}
    assert {setting.M for setting in additive if setting.metric == "IP"} == {4, 8}
    assert not any("normalised" in setting.preprocess for setting in additive if setting.metric == "L2")
    halves = [setting for setting in grid(4, 64) if setting.method in ("PRQ", "PLSQ") and setting.metric == "L2"]
    assert {setting.nbits for setting in halves} == {4}, "three 8-bit codebooks have no halves"


def test_quick_is_a_part():
    assert set(grid(4, 512, quick=True)) < set(grid(4, 512))
    assert 3 * len(grid(4, 512, quick=True)) < len(grid(4, 512))
