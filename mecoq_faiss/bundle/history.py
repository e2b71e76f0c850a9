"""A bundle's updates as a figure: items, and how far the new ones drifted from the export's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mecoq_faiss.bundle.drift import BITS

KINDS = (".svg", ".png")


def check_plot(path: str | Path) -> None:
    """ValueError where a figure cannot be written under this name, ImportError where there is no matplotlib."""
    if Path(path).suffix.lower() not in KINDS:
        raise ValueError(f"--plot {path}: choose a name that ends in .svg or .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'mecoq-faiss[report]'") from error


def series(manifest: dict[str, Any]) -> dict[str, tuple[list[int], list[float]]]:
    """What is drawn over the number of the update: `items`, `auc`, `divergence`; the last two where measured."""
    drawn: dict[str, tuple[list[int], list[float]]] = {"items": ([], []), "auc": ([], []), "divergence": ([], [])}
    for update, entry in enumerate(manifest.get("history", []), 1):
        drift = entry.get("drift")
        for name, (updates, values) in drawn.items():
            value = entry.get(name) if name == "items" else drift.get(name) if isinstance(drift, dict) else None
            if isinstance(value, int | float):  # a stranger's history may hold anything
                updates.append(update)
                values.append(value)
    return drawn


def plot_history(manifest: dict[str, Any], out: str | Path) -> None:
    """Draw a bundle's history, from its manifest, into an .svg or .png file.

    Raises:
        ValueError: another kind of file, or a bundle that was never updated.
        ImportError: no matplotlib.
    """
    check_plot(out)
    from matplotlib.figure import Figure

    drawn = series(manifest)
    if not drawn["items"][0]:
        raise ValueError("the bundle was never updated: there is no history to draw")
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    labels = {"items": "items", "auc": "AUC of the error", "divergence": "divergence, bits"}
    usual = {"auc": 0.5, "divergence": BITS}
    for axes, (name, (updates, values)) in zip(figure.subplots(3, 1, sharex=True), drawn.items(), strict=True):
        axes.plot(updates, values, marker="o", gid=name)
        if name in usual:
            axes.axhline(usual[name], color="0.6", linestyle="--")
        axes.set_ylabel(labels[name])
    axes.set_xlabel("update")
    figure.savefig(out, format=Path(out).suffix.lower()[1:])
