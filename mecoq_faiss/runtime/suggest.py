"""did_you_mean(): the known names nearest to an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error: the nearest names, or all of them where none is near (at most 30)."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"choose one of {', '.join(names[:30])}{', ...' if len(names) > 30 else ''}"
