"""The grid of settings, and the choice among them on held-out digits."""

import numpy as np
import pytest

from mecoq_faiss.baselines import Baseline, choose, grid


def test_grid_holds_each_setting_once():
    settings = grid(4, dim=64)
    assert len(set(settings)) == len(settings) == len({setting.name for setting in settings})
    assert {setting.method for setting in settings} == {"PQ", "OPQ", "ITQ", "LSH", "Flat"}
    assert {setting.num_bytes for setting in settings} == {0, 4}
    assert {setting.opq_width for setting in settings} == {None, 32, 64}
    assert {setting.opq_width for setting in grid(4, 64, opq_widths=[30])} == {None, 32}
    assert "ITQ" not in {setting.method for setting in grid(9, dim=64)}  # 72 bits
    assert all(setting.opq_width % setting.M == 0 for setting in grid(3, 512) if setting.opq_width)


def test_choose_takes_the_best_of_each_method(digits):
    xt, xb, _, labels, _ = digits
    settings = [
        Baseline("PQ", 1, nbits=4),
        Baseline("PQ", 8),
        Baseline("LSH", 4),
        Baseline("LSH", 4, preprocess="centred"),
        Baseline("Flat", metric="IP"),
        Baseline("Flat", preprocess="centred+normalised", metric="IP"),
    ]
    best, table = choose(settings, xt, xb, labels, 20, seed=1)
    assert [best[method] for method in ("PQ", "LSH", "Flat")] == [settings[1], settings[3], settings[5]]
    assert len(table) == 6 and [row["score"] for row in table] == sorted((r["score"] for r in table), reverse=True)
    assert {row["measure"] for row in table} == {"MAP@20"}
    assert choose(settings, xt, xb, labels, 20, seed=1)[1] == table
    shuffled = np.random.default_rng(0).permutation(len(xb))  # another draw, the same verdict
    assert choose(settings, xt, xb[shuffled], labels[shuffled], 20, seed=1)[0] == best

    both = [Baseline("PQ", 4, metric=metric) for metric in ("L2", "IP")]  # of one fit
    alone = [choose([setting], xt, xb, labels, 20, seed=1)[1][0] for setting in both]
    assert choose(both, xt, xb, labels, 20, seed=1)[1] == sorted(alone, key=lambda row: -row["score"])

    best, table = choose(settings, xt, xb, None, 20)
    assert best["PQ"] == settings[1] and {row["measure"] for row in table} == {"recall@10"}
    assert table[0]["score"] == 1 and table[0]["name"] == "Flat, centred+normalised, IP"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: choose([], x, x, None, 5), "0 settings and 600 held-out rows: give at least one setting"),
        (lambda x: choose([Baseline("Flat")], x, x[:19], None, 5), "1 settings and 19 held-out rows: .* and 20 rows"),
        (lambda x: choose([Baseline("Flat")], x, x, np.array([1]), 5), "one label each"),
    ],
)
def test_errors_say_what_to_mend(digits, call, message):
    with pytest.raises(ValueError, match=message):
        call(digits[0])
