"""What becomes of the codebooks once the last epoch is over and the embedding is learned."""

from __future__ import annotations

import logging

from mecoq_faiss.config import TrainConfig
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.additive import fit_additive
from mecoq_faiss.training.pairs import Pairs
from mecoq_faiss.training.polish import polish

logger = logging.getLogger("mecoq_faiss")


def finish_codebooks(model: MeCoQ, pairs: Pairs, c: TrainConfig) -> None:
    """Fit the additive codebooks, or polish the product ones, as the settings say, in place."""
    if model.preserves:
        return  # learned to the end
    if model.additive is not None:
        logger.info("fitting %d additive codebooks of %d codewords", model.config.M, model.config.K)
        fit_additive(model, pairs, c.seed)
    elif c.polish_rounds and not model.config.freeze_codebooks:
        polish(model, pairs, c.polish_rounds)
