"""The choice among settings on held-out digits and textures, in full and by successive halving."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.collections.sets import textures
from mecoq_faiss.backbone.fixed_features import fixed_features
from mecoq_faiss.backbone.network import create_backbone
from mecoq_faiss.baselines import Baseline, Round, choose, choose_for, grid

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
TEXTURES, WEIGHTS = DATA / "dtd10-160px.tar", DATA / "mobilenetv1_100-imagenet.safetensors"


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


CHEAP = ("PQ", "RQ", "ITQ", "LSH", "Flat")  # k-means with 16 centroids


def test_successive_halving_finds_the_winners_of_the_whole_grid(digits):
    """Or one within the scatter of the seeds: the standard deviation of the full winner's score over three."""
    xt, xb, _, labels, _ = digits
    settings = [
        s for s in grid(4, 64, widths=[32]) if s.method in CHEAP and s.nbits == (4 if s.method in ("PQ", "RQ") else 8)
    ]
    rounds = [Round(300, 100, 400, 0.3, 6), Round(400, 150, 600, 0.6, 3)]
    best, table = choose(settings, xt, xb, labels, 100, rounds=rounds)
    full, all_in_full = choose(settings, xt, xb, labels, 100, rounds=[])
    score = {row["name"]: row["score"] for row in all_in_full}
    assert {row["round"] for row in table} == {1, 2, 3} and {row["round"] for row in all_in_full} == {1}
    assert sorted(row["name"] for row in table) == sorted(score), "the record holds every setting"
    assert choose(settings, xt, xb, labels, 100, rounds=rounds)[1] == table
    for method in (m for m in CHEAP if best[m] != full[m]):
        over_seeds = [choose([full[method]], xt, xb, labels, 100, seed=seed)[1][0]["score"] for seed in range(3)]
        assert score[best[method].name] >= score[full[method].name] - np.std(over_seeds), method
    assert sum(best[method] == full[method] for method in CHEAP) >= 4
    last = [row for row in table if row["round"] == 3]
    assert len(last) == sum(min(3, sum(s.method == m for s in settings)) for m in CHEAP)
    for row in last:  # the last round is the whole of it
        assert row["score"] == score[row["name"]]


@pytest.mark.slow
@pytest.mark.skipif(
    not (TEXTURES.exists() and WEIGHTS.exists()), reason="no textures, or no weights, in ../shared/data"
)
def test_the_rounds_keep_the_winners_on_real_features():
    """For either goal; a chosen setting may be 0.2 points below the best of all 318 in full, in the same look."""
    pytest.importorskip("timm")
    backbone = create_backbone("timm:mobilenetv1_100", str(WEIGHTS), image_size=96)
    database = textures(str(TEXTURES)).database
    x, rows = fixed_features(database, backbone, size=96, workers=0)
    held = np.isin(np.arange(len(x)), np.random.default_rng(0).permutation(len(x))[: len(x) // 3])
    settings = [s for s in grid(4, x.shape[1]) if s.method in ("PQ", "OPQ", "RQ")]
    arguments = (["map", "neighbours"], settings, x[~held], x[held], database.labels[rows][held], held.sum())
    best, _ = choose_for(*arguments)
    full, table = choose_for(*arguments, rounds=())
    for goal, column in (("map", "score"), ("neighbours", "also")):
        score = {row["name"]: row[column] for row in table}
        for method in ("PQ", "OPQ", "RQ"):
            assert score[best[goal][method].name] >= score[full[goal][method].name] - 0.002, (goal, method)


def test_each_goal_has_its_own_winners(digits):
    """The last round has all that a choice for either alone would have there, with the same scores."""
    xt, xb, _, labels, _ = digits
    settings = [s for s in grid(4, 64, widths=[32]) if s.method in ("LSH", "Flat")]
    rounds = [Round(300, 100, 400, 0.3, 1)]
    best, table = choose_for(["map", "neighbours"], settings, xt, xb, labels, 100, rounds=rounds)
    last = [row for row in table if row["round"] == 2]
    for goal, key, given in (("map", "score", labels), ("neighbours", "also", None)):
        score = {row["name"]: row[key] for row in last}
        for row in choose(settings, xt, xb, given, 100, rounds=rounds)[1]:
            assert row["round"] == 1 or score[row["name"]] == row["score"]
        for method in ("LSH", "Flat"):
            assert score[best[goal][method].name] == max(row[key] for row in last if row["method"] == method)
    assert best["map"] != best["neighbours"] and {row["also_measure"] for row in table} == {"recall@10"}


def test_a_round_that_leaves_nothing_out_is_skipped(digits):
    xt, xb, _, labels, _ = digits
    settings = [Baseline("Flat"), Baseline("LSH", 4)]
    whole = choose(settings, xt, xb, labels, 20, rounds=[])[1]
    rounds = [Round(10, 5, 20, 0.1, 1)]
    assert [row["score"] for row in choose(settings, xt, xb, labels, 20, rounds=rounds)[1]] == [
        row["score"] for row in whole
    ]


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
