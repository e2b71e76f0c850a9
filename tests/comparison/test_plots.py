"""Plots: bare SVG in the page's own colour, the same each time, with a text alternative."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mecoq_faiss.baselines.baseline import METHODS
from mecoq_faiss.comparison.contenders import LEARNED
from mecoq_faiss.comparison.plots import STYLES, bars, lines


def test_plots_are_reproducible_and_escape_their_title() -> None:
    series = {"MeCoQ": ([1, 2, 3], [0.9, 0.8, 0.7]), "another": ([1, 2, 3], [0.5, 0.4, 0.3])}
    first = lines('a "title" <b>', series, "x", "y", logarithmic=True)
    assert first == lines('a "title" <b>', series, "x", "y", logarithmic=True)
    assert 'aria-label="a &quot;title&quot; &lt;b&gt;"' in first
    assert not re.search(r'(?:href|src)="(?!#)', first)
    assert "<svg" in bars("usage", {"PQ": [{"used": 1.0, "effective": 0.8}] * 4}, "share")


def paths(svg: str, style: str) -> list[np.ndarray]:
    """The points (n, 2) of each path drawn in this style, y upwards."""
    drawn = re.findall(rf'<path d="([^"]*)"[^>]*style="[^"]*{style}', svg)
    points = [np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", d), float) for d in drawn]
    return [xy * (1, -1) for xy in points]


@pytest.mark.parametrize(("logarithmic", "xs"), [(False, [1, 2, 4]), (True, [1, 10, 1000])])
def test_a_line_goes_through_its_points(logarithmic: bool, xs: list[float]) -> None:
    ys = [0.9, 0.5, 0.8]
    svg = lines("t", {"MeCoQ": (xs, ys), "PQ": (xs, ys[::-1])}, "n", "precision", logarithmic=logarithmic)
    for color, values in (("#e0592a", ys), ("#3a8bd6", ys[::-1])):
        line = next(xy for xy in paths(svg, f"stroke: {color}") if len(xy) == 3)
        steps = np.diff(line, axis=0)
        assert steps[0, 0] / steps[1, 0] == pytest.approx(1 / 2, rel=1e-3)
        assert steps[0, 1] / steps[1, 1] == pytest.approx(np.diff(values)[0] / np.diff(values)[1], rel=1e-3)
    assert ">precision<" in svg and ">MeCoQ<" in svg


def test_every_method_has_a_color_and_a_dash_of_its_own() -> None:
    assert list(STYLES) == [LEARNED, *METHODS]
    assert (
        len({color for color, _ in STYLES.values()}) == len({str(dash) for _, dash in STYLES.values()}) == len(STYLES)
    )
    svg = lines("t", {label: ([1, 10], [0.5, 0.4]) for label in STYLES}, "n", "precision")
    assert all(f">{label}<" in svg for label in STYLES)
    learned, *others = (
        re.search(rf"stroke: {STYLES[label][0]}; stroke-width: ([\d.]+)", svg) for label in list(STYLES)[:5]
    )
    assert learned and all(other and float(other[1]) < float(learned[1]) for other in others)


def test_bars_are_as_high_as_their_shares() -> None:
    shares = [{"used": 1.0, "effective": 0.8}, {"used": 0.5, "effective": 0.25}]
    svg = bars("usage", {"PQ": shares, "other": shares[:1]}, "share")
    heights = [np.ptp(xy[:, 1]) for xy in paths(svg, "fill: #3a8bd6")]
    np.testing.assert_allclose(np.array(heights) / heights[0], [1, 0.5, 0.8, 0.25], atol=1e-3)
    widths = [np.ptp(xy[:, 0]) for color in ("#3a8bd6", "#888888") for xy in paths(svg, f"fill: {color}")]
    np.testing.assert_allclose(np.array(widths[4:]) / widths[0], [2, 2], rtol=1e-3)  # groups of equal width


def test_it_stands_in_a_page() -> None:
    """In the page's own colour, scaled by it, referring to nothing but itself."""
    svg = lines("t", {"Flat": ([1, 2], [0.1, 0.2]), "PQ": ([1, 2], [0.3, 0.4])}, "x", "y")
    head = svg.split(">", 1)[0]
    assert svg.startswith("<svg ") and "viewBox=" in head and "width=" not in head and "height=" not in head
    assert "stroke: currentColor" in svg and "#010203" not in svg and "<metadata>" not in svg
    ids = re.findall(r' id="([^"]*)"', svg)
    assert set(ids) == set(re.findall(r'(?:url\(#|href="#)([^)"]*)', svg)) and len(ids) == len(set(ids))
