"""Plots: bare SVG in the page's own colour, the same each time, with a text alternative."""

from __future__ import annotations

import re

from mecoq_faiss.comparison.plots import bars, lines


def test_plots_are_reproducible_and_escape_their_title() -> None:
    series = {"MeCoQ": ([1, 2, 3], [0.9, 0.8, 0.7]), "another": ([1, 2, 3], [0.5, 0.4, 0.3])}
    first = lines('a "title" <b>', series, "x", "y", logarithmic=True)
    assert first == lines('a "title" <b>', series, "x", "y", logarithmic=True)
    assert 'aria-label="a &quot;title&quot; &lt;b&gt;"' in first
    assert not re.search(r'(?:href|src)="(?!#)', first)
    assert "<svg" in bars("usage", {"PQ": [{"used": 1.0, "effective": 0.8}] * 4}, "share")
