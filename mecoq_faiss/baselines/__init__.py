"""What FAISS has without learning (PQ, OPQ, additive quantizers, ITQ, LSH), and the fair choice among its settings."""

from mecoq_faiss.runtime.faiss_check import check_faiss

check_faiss()  # before anything fails in a way that does not name the mend

from mecoq_faiss.baselines.baseline import Baseline, FittedBaseline  # noqa: E402
from mecoq_faiss.baselines.choice import choose, grid  # noqa: E402

__all__ = ["Baseline", "FittedBaseline", "choose", "grid"]
