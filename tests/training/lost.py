"""lost_after(): a training that is lost in the middle, as by a kill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mecoq_faiss.training.contrast import Contrast


@contextmanager
def lost_after(steps: int) -> Iterator[None]:
    """Within, a training ends after so many steps; that it does is asserted."""
    step, done = Contrast.after_step, []

    def after_step(self: Contrast) -> None:
        step(self)
        done.append(1)
        if len(done) == steps:
            raise SystemExit

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Contrast, "after_step", after_step)
        yield
