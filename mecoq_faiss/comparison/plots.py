"""Small SVG plots for a web page: text in the page's own colour, so that they suit light and dark."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("plots need matplotlib: pip install 'mecoq-faiss[report]'") from error

INK = "#010203"  # stands for the page's text colour
STYLES: dict[str, tuple[str, Any, str]] = {  # color, dash, marker: no two methods share one of them
    # Colors: 2.4 : 1 at least on the page's white and its near-black, and far from each other for the color-blind too.
    "MeCoQ": ("#dd6600", "-", "o"),
    "PQ": ("#4466ff", "--", "s"),
    "OPQ": ("#00bb88", "-.", "^"),
    "RQ": ("#9900aa", (0, (6, 2)), "D"),
    "LSQ": ("#ff1155", (0, (12, 3)), "v"),
    "PRQ": ("#77aabb", (0, (3, 1)), "P"),
    "PLSQ": ("#665522", (0, (3, 1, 1, 1)), "X"),
    "RaBitQ": ("#993366", (0, (8, 2, 1, 2, 1, 2)), "p"),
    "ITQ": ("#aa99ee", (0, (4, 1, 1, 1, 1, 1)), "<"),
    "LSH": ("#5500ff", ":", ">"),
    "Flat": (INK, (0, (1, 3)), "*"),
}
OTHER = ("#888888", "-", "h")
MARKERS = 7  # on a line
WIDTH, WIDE = 1.4, 2.6  # of a line; the learned codes' stands out among ten others
RC: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": INK, "grid.alpha": 0.12, "grid.linewidth": 0.6,
    "legend.frameon": False,
}  # fmt: skip

Points = tuple[Sequence[float], Sequence[float]]


def lines(title: str, series: Mapping[str, Points], x: str, y: str, *, logarithmic: bool = False) -> str:
    """An SVG of one line a method, label -> (xs, ys); the names stand in the order in which the lines end."""
    with rc_context(RC | {"svg.hashsalt": title}):
        return _svg(_lines(series, x, y, logarithmic), title)


def _lines(series: Mapping[str, Points], x: str, y: str, logarithmic: bool) -> Figure:
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    drawn = {}
    for number, (label, (xs, ys)) in enumerate(series.items()):
        color, dash, marker = STYLES.get(label, OTHER)
        every = max(1, len(xs) // MARKERS)
        (drawn[label],) = axes.plot(
            xs, ys, color=color, linestyle=dash, linewidth=WIDE if label == next(iter(STYLES)) else WIDTH, label=label,
            marker=marker, markersize=5, markeredgewidth=0, markevery=(number * every // len(series), every),
        )  # fmt: skip
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    ends = sorted(series, key=lambda label: -series[label][1][-1])
    figure.legend([drawn[label] for label in ends], ends, loc="outside right upper", handlelength=3.2)
    return figure


def bars(title: str, groups: Mapping[str, Sequence[dict[str, float]]], y: str) -> str:
    """An SVG of grouped bars: label -> {"used", "effective"} for each sub-quantizer; the effective share is solid."""
    with rc_context(RC | {"svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 3.5), layout="constrained")
        axes = figure.subplots()
        start, middles = 0.0, []
        for label, shares in groups.items():
            width = 1 / len(shares)  # groups of equal width, whatever M
            places = [start + (i + 0.5) * width for i in range(len(shares))]
            color = STYLES.get(label, OTHER)[0]
            axes.bar(places, [s["used"] for s in shares], 0.86 * width, color=color, alpha=0.3)
            axes.bar(places, [s["effective"] for s in shares], 0.86 * width, color=color)
            middles.append(start + 0.5)
            start += 1.3
        axes.set_xticks(middles, list(groups), rotation=45 if len(groups) > 5 else 0)
        axes.set_ylim(0, 1)
        axes.set_ylabel(y)
        axes.grid(False, axis="x")
        return _svg(figure, title)


def _svg(figure: Any, title: str) -> str:
    """The bare <svg> element: scales with the page, has a text alternative, refers to nothing outside."""
    out = StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font: \1 sans-serif", text)
    used = set(re.findall(r"#([\w.-]+)[\")]", text))  # the other names occur in every plot
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = text.replace(INK, "currentColor")
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]+"', head)
    assert box
    label = html.escape(title, quote=True)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} {box[0]} role="img" aria-label="{label}">{rest}'
