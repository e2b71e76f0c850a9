"""What FAISS has without learning (PQ, OPQ, additive quantizers, RaBitQ, ITQ, LSH), and the fair choice of settings."""

from mecoq_faiss.runtime.faiss_check import check_faiss

check_faiss()  # before anything fails in a way that does not name the mend

from mecoq_faiss.baselines.baseline import Baseline, FittedBaseline  # noqa: E402
from mecoq_faiss.baselines.choice import QUICK_ROUNDS, ROUNDS, Goal, Round, choose, choose_for  # noqa: E402
from mecoq_faiss.baselines.grid import EXACT, grid  # noqa: E402

__all__ = [
    "EXACT",
    "QUICK_ROUNDS",
    "ROUNDS",
    "Baseline",
    "FittedBaseline",
    "Goal",
    "Round",
    "choose",
    "choose_for",
    "grid",
]
