"""Plots: bare SVG in the page's own colour, the same each time, with a text alternative."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mecoq_faiss.baselines.baseline import METHODS
from mecoq_faiss.comparison.contenders import LEARNED
from mecoq_faiss.comparison.plots import INK, STYLES, _lines, bars, lines


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
    for color, values in ((STYLES["MeCoQ"][0], ys), (STYLES["PQ"][0], ys[::-1])):
        line = next(xy for xy in paths(svg, f"stroke: {color}") if len(xy) == 3)
        steps = np.diff(line, axis=0)
        assert steps[0, 0] / steps[1, 0] == pytest.approx(1 / 2, rel=1e-3)
        assert steps[0, 1] / steps[1, 1] == pytest.approx(np.diff(values)[0] / np.diff(values)[1], rel=1e-3)
    assert ">precision<" in svg and ">MeCoQ<" in svg


def test_every_method_has_a_color_a_dash_and_a_marker_of_its_own() -> None:
    assert list(STYLES) == [LEARNED, *METHODS]
    for mark in zip(*STYLES.values(), strict=True):
        assert len({str(each) for each in mark}) == len(STYLES)
    svg = lines("t", {label: ([1, 10], [0.5, 0.4]) for label in STYLES}, "n", "precision")
    assert all(f">{label}<" in svg for label in STYLES)
    learned, *others = (
        re.search(rf"stroke: {STYLES[label][0]}; stroke-width: ([\d.]+)", svg) for label in list(STYLES)[:5]
    )
    assert learned and all(other and float(other[1]) < float(learned[1]) for other in others)


def luminance(rgb: np.ndarray) -> np.ndarray:
    return rgb @ [0.2126, 0.7152, 0.0722]


def linear(color: str) -> np.ndarray:
    """A color's light (3,), of sRGB."""
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Light (3,) -> CIELAB, whose distances are those that the eye sees."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


@pytest.mark.parametrize("sight", [np.eye(3), PROTANOPIA, DEUTERANOPIA])  # Machado et al. 2009
def test_colors_can_be_told_apart_by_everyone(sight: np.ndarray) -> None:
    """20 in CIELAB is about ten just noticeable differences; and all are seen on white and on near-black."""
    colors = [linear(color) for color, *_ in STYLES.values() if color != INK]
    seen = [lab(np.array(sight) @ color) for color in colors]
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(apart) > 20
    for color in colors:
        contrasts = 1.05 / (luminance(color) + 0.05), (luminance(color) + 0.05) / (luminance(linear("#14181c")) + 0.05)
        assert min(contrasts) > 2.4


def test_names_stand_in_the_order_in_which_the_lines_end() -> None:
    series = {"MeCoQ": ([1, 10], [0.5, 0.3]), "PQ": ([1, 10], [0.4, 0.6]), "RQ": ([1, 10], [0.3, 0.5])}
    figure = _lines(series, "n", "precision", True)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["PQ", "RQ", "MeCoQ"]


def test_bars_are_as_high_as_their_shares() -> None:
    shares = [{"used": 1.0, "effective": 0.8}, {"used": 0.5, "effective": 0.25}]
    svg = bars("usage", {"PQ": shares, "other": shares[:1]}, "share")
    heights = [np.ptp(xy[:, 1]) for xy in paths(svg, f"fill: {STYLES['PQ'][0]}")]
    np.testing.assert_allclose(np.array(heights) / heights[0], [1, 0.5, 0.8, 0.25], atol=1e-3)
    widths = [np.ptp(xy[:, 0]) for color in (STYLES["PQ"][0], "#888888") for xy in paths(svg, f"fill: {color}")]
    np.testing.assert_allclose(np.array(widths[4:]) / widths[0], [2, 2], rtol=1e-3)  # groups of equal width


def test_it_stands_in_a_page() -> None:
    """In the page's own colour, scaled by it, referring to nothing but itself."""
    svg = lines("t", {"Flat": ([1, 2], [0.1, 0.2]), "PQ": ([1, 2], [0.3, 0.4])}, "x", "y")
    head = svg.split(">", 1)[0]
    assert svg.startswith("<svg ") and "viewBox=" in head and "width=" not in head and "height=" not in head
    assert "stroke: currentColor" in svg and "#010203" not in svg and "<metadata>" not in svg
    ids = re.findall(r' id="([^"]*)"', svg)
    assert set(ids) == set(re.findall(r'(?:url\(#|href="#)([^)"]*)', svg)) and len(ids) == len(set(ids))
