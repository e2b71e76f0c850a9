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
STYLES: dict[str, tuple[str, Any]] = {  # colours that both backgrounds carry, and dashes for who cannot tell them
    "MeCoQ": ("#e0592a", "-"),
    "PQ": ("#3a8bd6", "--"),
    "OPQ": ("#1fa37c", "-."),
    "RQ": ("#8a63d2", (0, (6, 2))),
    "LSQ": ("#d6479c", (0, (6, 2, 1, 2))),
    "PRQ": ("#4fa3a5", (0, (3, 1))),
    "PLSQ": ("#c9822b", (0, (3, 1, 1, 1))),
    "RaBitQ": ("#6f8f2e", (0, (8, 2, 1, 2, 1, 2))),
    "ITQ": ("#b66fd0", (0, (4, 1, 1, 1, 1, 1))),
    "LSH": ("#a08a3c", ":"),
    "Flat": (INK, (0, (1, 3))),
}
LEGEND_COLUMNS = 3
WIDTH, WIDE = 1.4, 2.6  # of a line; the learned codes' stands out among ten others
RC: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": INK, "grid.alpha": 0.12, "grid.linewidth": 0.6,
    "legend.frameon": False,
}  # fmt: skip

Points = tuple[Sequence[float], Sequence[float]]


def lines(title: str, series: Mapping[str, Points], x: str, y: str, *, logarithmic: bool = False) -> str:
    """An SVG of one line a method: label -> (xs, ys)."""
    with rc_context(RC | {"svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 3.0 + 0.2 * -(-len(series) // LEGEND_COLUMNS)), layout="constrained")
        axes = figure.subplots()
        for label, (xs, ys) in series.items():
            color, dash = STYLES.get(label, (None, "-"))
            first = label == next(iter(STYLES))
            axes.plot(xs, ys, color=color, linestyle=dash, linewidth=WIDE if first else WIDTH, label=label)
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        figure.legend(loc="outside upper center", ncols=LEGEND_COLUMNS, handlelength=3.0)
        return _svg(figure, title)


def bars(title: str, groups: Mapping[str, Sequence[dict[str, float]]], y: str) -> str:
    """An SVG of grouped bars: label -> {"used", "effective"} for each sub-quantizer; the effective share is solid."""
    with rc_context(RC | {"svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 3.5), layout="constrained")
        axes = figure.subplots()
        start, middles = 0.0, []
        for label, shares in groups.items():
            width = 1 / len(shares)  # groups of equal width, whatever M
            places = [start + (i + 0.5) * width for i in range(len(shares))]
            color = STYLES.get(label, ("#888888", ""))[0]
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
