"""The benchmark of scale: simulations against closed forms, costs by hand, parts at tiny sizes, the page's figures."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.scale import (
    apart,
    building,
    cell,
    costs,
    encoding,
    fanout,
    files,
    fleet,
    limits,
    madeup,
    measure,
    page,
    searching,
    shards,
    simulate,
    training,
    uptime,
)
from benchmarks.scale.rates import Rates
from mecoq_faiss.index import inverted_lists

PRICES = tomllib.loads(costs.PRICES.read_text(encoding="utf-8"))
OPTIONS = cell.Options([3000], [2], [1], ["mobilenet_v3_small"], None, 30, 64)


def run(plan: fleet.Fleet, draws: list[float] | None = None, failures: list[float] | None = None) -> fleet.Run:
    class Told(fleet.Run):
        def _next_failure(self) -> float:
            return failures.pop(0) if failures else math.inf

    kind = Told if failures is not None else fleet.Run
    return kind(plan, np.random.default_rng(0), None if draws is None else lambda node: draws.pop(0))


@pytest.mark.parametrize(("count", "nodes"), [(10, 1), (10, 3), (3, 10), (9, 3)])
def test_equal_shards_without_failures_take_whole_rounds(count: int, nodes: int) -> None:
    for copies in (False, True):
        done = run(fleet.Fleet(count, nodes, shard_time=7.0, start=1.0, copies=copies))
        assert done.end == 8.0 * math.ceil(count / nodes)


def test_a_straggler_is_overtaken_by_its_copy() -> None:
    alone, copying = (fleet.Fleet(shards=2, nodes=2, shard_time=1.0, copies=copies) for copies in (False, True))
    assert run(alone, [1.0, 10.0]).end == 10.0
    copied = run(copying, [1.0, 10.0, 2.0])
    assert (copied.end, copied.copied) == (3.0, 1)
    slower = run(copying, [1.0, 10.0, 20.0])
    assert (slower.end, slower.left) == (10.0, 0)


def test_a_failed_node_begins_its_shard_anew() -> None:
    done = run(fleet.Fleet(shards=1, nodes=1, shard_time=10.0, repair=3.0), failures=[4.0])
    assert (done.end, done.failures, done.restarts, done.busy) == (4 + 3 + 10, 1, 1, 14)
    moved = run(fleet.Fleet(shards=1, nodes=2, shard_time=10.0, repair=3.0), failures=[4.0, 1e9])
    assert (moved.end, moved.restarts) == (14.0, 1), "the idle node takes it at once"
    covered = run(fleet.Fleet(shards=1, nodes=2, shard_time=10.0, repair=3.0, copies=True), failures=[4.0, 1e9])
    assert (covered.end, covered.failures, covered.restarts) == (10.0, 1, 0), "its copy goes on"


def test_restarts_cost_what_exponential_failures_make_them_cost() -> None:
    t, mtbf, repair, count = 10.0, 20.0, 3.0, 4000
    done = run(fleet.Fleet(count, 1, t, mtbf=mtbf, repair=repair))
    expected = (mtbf + repair) * math.expm1(t / mtbf)  # of one shard, begun anew until it is done
    assert done.end / count == pytest.approx(expected, rel=0.05)


def test_log_normal_times_have_their_mean() -> None:
    rows = [fleet.figures(fleet.Fleet(2000, 1, 5.0, sigma=0.5), seed) for seed in (0, 1)]
    assert all(row["over ideal"] == pytest.approx(1, rel=0.05) for row in rows)
    assert rows[0] != rows[1] and rows[0] == fleet.figures(fleet.Fleet(2000, 1, 5.0, sigma=0.5), 0)


def test_requests_wait_for_those_before_them() -> None:
    p = fanout.Replicas(replicas=1, utilization=0.5, service_ms=5.0)
    took, twice = fanout.answers(p, np.array([0.0, 1.0, 2.0, 50.0]), np.random.default_rng(0))
    assert took.tolist() == [5, 9, 13, 5] and twice == 0


def test_a_late_answer_is_asked_for_again() -> None:
    p = fanout.Replicas(replicas=2, utilization=0.5, service_ms=5.0, hedge_ms=15.0)
    times = [100.0, 5.0]
    took, twice = fanout.answers(p, np.array([0.0]), np.random.default_rng(0), lambda: times.pop(0))
    assert took.tolist() == [20] and twice == 1


def test_waiting_is_that_of_pollaczek_and_khinchine() -> None:
    p = fanout.Replicas(replicas=1, utilization=0.4, service_ms=5.0, sigma=0.5)
    at = fanout.arrivals(p, 4000, np.random.default_rng(0))
    took, _ = fanout.answers(p, at, np.random.default_rng(1))
    waits = 0.4 / 0.6 * 5.0 * math.exp(0.25) / 2
    assert took.mean() == pytest.approx(5.0 + waits, rel=0.05)


def test_more_shards_are_never_faster() -> None:
    p = fanout.Replicas(replicas=2, utilization=0.4, service_ms=5.0, sigma=0.5)
    rows = fanout.figures(p, [1, 4], 300, seed=0)
    assert [row["shards"] for row in rows] == [1, 4] and rows[0]["p99"] <= rows[1]["p99"]


def test_the_share_of_whole_answers() -> None:
    assert uptime.full_share(5, 1, mtbf=1e15, repair=1.0, horizon=1000.0, seed=0) == 1.0
    for count, replicas in ((1, 1), (3, 2)):
        share = uptime.full_share(count, replicas, mtbf=10.0, repair=2.0, horizon=30_000.0, seed=1)
        assert share == pytest.approx(uptime.expected_share(count, replicas, 10.0, 2.0), abs=0.01)
    assert uptime.expected_share(2, 1, 3.0, 1.0) == pytest.approx(0.75**2)


def test_a_simulation_has_every_case_and_does_not_depend_on_its_processes(tmp_path: Path) -> None:
    settings = tomllib.loads(simulate.SETTINGS.read_text(encoding="utf-8"))
    settings["seeds"] = 2
    settings["encoding"] |= {"images": 50_000, "nodes": 3, "shard_images": [10_000, 25_000]}
    settings["searching"] |= {"shards": [1, 2], "requests": 40}
    settings["failures"] |= {"shards": [2], "years": 1}
    found = simulate.run(settings, 2)
    assert [len(found[name]) for name in ("encoding", "searching", "failures")] == [2 * 3 * 2, 3 * 2, 3]
    over = [
        [fleet.figures(plan, seed)["hours"] for seed in (0, 1)] for _, plan in simulate.encoding(settings["encoding"])
    ]
    assert [row["hours"] for row in found["encoding"]] == [pytest.approx(np.mean(hours)) for hours in over]


def made_up() -> dict:
    """Rates with round figures, as `measure` writes them."""
    parts: dict[str, list[dict]] = {name: [] for name in measure.PARTS}
    backbone = PRICES["images"]["backbone"]
    parts["encoding"] = [{"what": "files to codes", "backbone": backbone, "workers": 1, "per_second": 100.0}]
    parts["training"] = [
        {"what": "views into the cache", "backbone": backbone, "per_second": 50.0},
        {"what": "steps on cached features", "batch": 500, "per_second": 10.0},
    ]
    for b in (2, 4, 8):
        for kind in ("pq", "pqfs", "ivfpq"):
            speed = {"pq": 4e8, "pqfs": 4e9, "ivfpq": 4e8}[kind] / b  # codes a second
            for n in (10**5, 10**6):
                row: dict = {"kind": kind, "num_bytes": b, "n": n}
                parts["building"].append({"what": "build", **row, "build_s": n / 1e8, "fill_per_s": 1e7})
                work = {"nlist": 1000, "nprobe": 60 if n == 10**5 else 10}
                seconds = n / speed if kind != "ivfpq" else 1e-9 * 8000 * b + 2e-9 * work["nprobe"] * n / 1000
                parts["searching"].append({"what": "search", **row, **work, "alone_ms": 1000 * seconds, "ms": 1.0})
        for nlist in (1 << 10, 1 << 16):
            parts["building"].append({"what": "assign", "num_bytes": b, "nlist": nlist, "macs_per_s": 1e10})
    for kind, each in (("pq", 4.0), ("pqfs", 4.0), ("ivfpq", 12.0)):
        row = {"what": "open", "kind": kind, "num_bytes": 4, "n": 10**6, "file / code": each, "memory / code": each}
        parts["files"].append(row)
    parts["files"].append({"what": "disk", "write_bytes_per_s": 1e9, "read_bytes_per_s": 2e9})
    machine = {"cores": 2, "faiss": "1", "simd": "AVX2", "torch": "2"}
    return {"parts": parts, "skipped": [], "machine": machine}


def test_training_and_encoding_by_hand() -> None:
    row = costs.preparing(Rates(made_up()), PRICES, 10**8)
    assert row["encoding, core hours"] == pytest.approx(1e8 / 100 / 3600)
    assert row["views, core hours"] == pytest.approx(1e6 * 10 / 50 / 3600)
    assert row["steps, core hours"] == pytest.approx(100 * 1e6 / 500 / 10 / 3600)
    assert row["images read, GB"] == pytest.approx(1.01e8 * 1e5 / 1e9)
    hours = row["encoding, core hours"] + row["views, core hours"]
    assert row["views and encoding, GPU hours"] == pytest.approx(hours / PRICES["images"]["gpu_over_core"])


def test_shards_copies_and_machines_by_hand() -> None:
    rates = Rates(made_up())
    p = PRICES | {
        "machine": {"cores": 10, "memory_gb": 10, "index_share": 0.5, "busy": 0.5},
        "queries": {"per_second": 100, "latency_ms": 50, "replicas": 2, "k": 10},
    }
    small = costs.placing(rates, p, "pqfs", 4, 10**7)  # 10 ms a query: 1 of the 10 x 0.5 busy cores, twice
    assert (small["shards"], small["copies"], small["machines"]) == (1, 2, 2)
    assert small["core ms a query"] == pytest.approx(10)
    large = costs.placing(rates, p, "pqfs", 4, 2 * 10**9)  # 8 GB of 5 a machine; 2 s of scanning in 50 ms each
    assert 40 <= large["shards"] <= 41 and large["copies"] == math.ceil(100 * 2 / (math.ceil(large["shards"] / 10) * 5))
    p["machine"]["memory_gb"], p["queries"]["latency_ms"] = 10**6, 10**6
    assert costs.placing(rates, p, "pqfs", 4, 10**10)["shards"] == 5, "FastScan's own limit"
    assert large["memory, GB"] == pytest.approx(large["copies"] * 8)


def test_an_inverted_file_s_two_rates_are_found_again() -> None:
    a, b, error = Rates(made_up()).lists(4)
    assert (a, b) == (pytest.approx(1e-9), pytest.approx(2e-9)) and error < 1e-6


def test_building_lists_is_kmeans_assignment_and_filling() -> None:
    n, nlist = 10**6, inverted_lists.default_nlist(10**6)
    hours = costs.build_hours(Rates(made_up()), "ivfpq", 4, n, 1)
    rows = inverted_lists.ITERATIONS * min(n, 256 * nlist, inverted_lists.SAMPLE_BYTES // 128)
    assert hours * 3600 == pytest.approx((rows + n) * nlist * 32 / 1e10 + n / 1e7)


def test_where_assigning_costs_more_than_encoding() -> None:
    found = limits.of_codes(Rates(made_up()), PRICES, 100.0, 4)
    n = found["assigning costs more than encoding on a core"]
    assert 4 * math.sqrt(n) * 32 / 1e10 == pytest.approx(1 / 100)
    assert n / found["assigning on a core costs more than encoding on a GPU"] == pytest.approx(100**2)
    assert found["one core scans pq within the latency"] == pytest.approx(PRICES["queries"]["latency_ms"] / 1e3 * 1e8)


def test_a_missing_rate_is_said_in_one_line() -> None:
    without = made_up()
    without["parts"]["encoding"] = []
    with pytest.raises(ValueError, match=r"^not measured: .*measure --parts encoding$"):
        costs.compute(Rates(without), PRICES)
    with pytest.raises(ValueError, match=r"run python -m benchmarks\.scale measure"):
        Rates.read(Path("nowhere"))


@pytest.mark.parametrize("part", [building, shards, searching, files])
def test_each_index_part_measures_at_tiny_sizes(part, tmp_path: Path) -> None:
    for found in part.cells(OPTIONS):
        job = {**found.jobs[0]}
        job |= {"macs": 1e6} if "macs" in job else {"bytes": 1000} if found.name == "disk" else {}
        job |= {"folder": str(tmp_path)} if "folder" in job else {}
        name = found.work.partition(":")[2]
        work = getattr(part, name)(**job)
        next(work)
        row = next(work)
        work.close()
        assert row and all(np.isfinite(value) for value in row.values()), found
    assert not list(tmp_path.iterdir()), "what was made is gone"


def test_images_and_steps_are_counted(tmp_path: Path) -> None:
    small: dict = {"backbone": "mobilenet_v3_small", "image_size": 32, "images": 2}
    for work, n in (
        (encoding.bare_share(**small), 2),
        (encoding.encode_share(**small, folder=str(tmp_path)), 2),
        (training.views(**small, folder=str(tmp_path)), 2 * training.VIEWS),
        (training.steps(batch=8, steps=2), 2),
    ):
        next(work)
        assert next(work) == {"n": n}
        list(work)


def test_made_up_lists_are_as_long_and_found_by_their_centroids() -> None:
    index: Any = madeup.index_of("ivfpq", 2, 5000)
    lengths = {index.invlists.list_size(i) for i in range(index.nlist)}
    assert max(lengths) - min(lengths) <= 1 and sum(index.invlists.list_size(i) for i in range(index.nlist)) == 5000
    index.nprobe = index.nlist
    xq = madeup.queries(2, 5)
    D, _ = index.search(xq, 10)
    exact, _ = madeup.index_of("pq", 2, 5000).search(xq, 10)
    np.testing.assert_allclose(D, exact, atol=1e-5)


def test_processes_begin_together_and_a_death_is_named() -> None:
    rows = apart.together("searching:merge", [{"shards": 2, "k": 10}, {"shards": 3, "k": 5}])
    assert len(rows) == 2 and all(row["us"] > 0 and row["seconds"] > 0 and row["rss"] > 1e6 for row in rows)
    with pytest.raises(apart.Died, match="TypeError"):
        apart.together("searching:merge", [{"shards": 2}])


def test_what_is_lacking_is_recorded_and_what_is_finished_is_kept(tmp_path: Path, monkeypatch) -> None:
    class Part:
        @staticmethod
        def cells(options: cell.Options):
            yield cell.Cell("fits", {"n": 1}, "none:none", [])
            yield cell.Cell("memory", {"n": 2}, "none:none", [], memory=1e18)
            yield cell.Cell("disk", {"n": 3}, "none:none", [], disk=1e18)
            yield cell.Cell("time", {"n": 4}, "none:none", [], seconds=1e6)
            yield cell.Cell("dies", {"n": 5}, "none:none", [])

    calls = []

    def measured(self: cell.Cell) -> dict:
        calls.append(self.name)
        if self.name == "dies":
            raise apart.Died("ended by signal 9")
        return {"what": self.name, **self.settings}

    monkeypatch.setitem(measure.PARTS, "searching", Part)
    monkeypatch.setattr(cell.Cell, "measure", measured)
    told = ["--parts", "searching", "--finished", str(tmp_path / "finished"), "--out", str(tmp_path)]
    for _ in range(2):
        measure.main(told)
    found = json.loads((tmp_path / "rates.json").read_text())
    assert found["parts"]["searching"] == [{"what": "fits", "n": 1}] and found["machine"]["simd"]
    assert [row["what"] for row in found["skipped"]] == ["memory", "disk", "time", "dies"]
    assert all(len(row["reason"]) > 10 for row in found["skipped"])
    assert calls == ["fits", "dies", "dies"], "a finished one is not measured again"


def test_the_page_marks_every_table_and_shows_what_was_computed(tmp_path: Path) -> None:
    rates = made_up()
    rates["skipped"] = [{"part": "searching", "what": "search", "n": 10**8, "reason": "wants 9 GB of memory"}]
    (tmp_path / "rates.json").write_text(json.dumps(rates))
    costs.main(["--rates", str(tmp_path / "rates.json"), "--out", str(tmp_path)])
    text = page.page(tmp_path)
    row = costs.preparing(Rates(rates), PRICES, 10**10)
    assert f"| 10,000,000,000 | {page.number(row['views, core hours'])} |" in text
    assert "wants 9 GB of memory" in text and "Not run yet: `python -m benchmarks.scale simulate`." in text
    before = [text[:match].rstrip().splitlines()[-1] for match in _tables(text.split("## What is assumed")[0])]
    assert len(before) > 10 and all(line.startswith(("*Computed.*", "*Measured.*", "*Read.*")) for line in before)


def _tables(text: str) -> list[int]:
    """Where each table begins."""
    lines = text.splitlines(keepends=True)
    ends = np.cumsum([0, *map(len, lines)])
    return [int(ends[i]) for i in range(1, len(lines)) if lines[i][0] == "|" and lines[i - 1][0] != "|"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234567, "1,234,567"), (1234567.0, "1,230,000"), (99.95, "100"), (0.5, "0.5"), (1e-5, "1e-05")],
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert page.number(value) == shown


def test_the_page_is_that_of_the_results() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
