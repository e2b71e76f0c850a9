"""The contrastive objective (Eq. 14) of a batch: model, memory and loss terms put together."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mecoq_faiss.config import TrainConfig
from mecoq_faiss.loss import code_entropy, codeword_diversity, debiased_contrastive_loss, ranking_distillation
from mecoq_faiss.memory import CodeMemory
from mecoq_faiss.model import MeCoQ, Quantized
from mecoq_faiss.training.objective import Objective
from mecoq_faiss.training.pairs import Pair
from mecoq_faiss.training.targets import Targets


class Contrast(Objective):
    """Scores a pair of views and keeps the code memory and the codeword counts of the epoch.

    The memory receives the codes of each image's first view (N slots a step), and takes part from
    `memory_start_epoch` on. `targets` are needed where `preserve_weight` is set.
    """

    def __init__(self, model: MeCoQ, config: TrainConfig, targets: Targets | None = None) -> None:
        super().__init__(model, config)
        self.targets = targets
        q = model.quantizer
        self.memory = CodeMemory(config.memory_size, q, config.memory_kind) if config.memory_size else None

    def forward(self, pair: Pair, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one batch in epoch `epoch` (from 1), and its terms, detached scalars."""
        c = self.config
        N = len(pair.view1)
        both: Quantized = self.model(torch.cat([pair.view1, pair.view2]))
        memory = None
        if self.memory is not None and epoch >= c.memory_start_epoch:
            memory = self.memory.reconstructions(self.model.quantizer)
        contrastive = self._contrastive(both, memory)
        diversity = codeword_diversity(self.model.quantizer.codebooks)
        loss = contrastive + c.diversity_weight * diversity  # Eq. 14; its decay of the weights is the optimizer's
        terms = {"contrastive": contrastive.detach(), "diversity": diversity.detach()}
        if c.entropy_weight:
            entropy = code_entropy(both.p)
            loss = loss + c.entropy_weight * entropy
            terms["entropy"] = entropy.detach()
        if c.preserve_weight:
            assert self.targets is not None and pair.rows is not None
            x = self.targets.take(pair.rows)
            z = self.model.quantizer.segments(both.z[: len(x)]).flatten(1)
            distillation = rank_distance(x, z, both.z_hat[len(x) :].float(), c.preserve_temperature)
            loss = loss + c.preserve_weight * distillation
            terms["distillation"] = distillation.detach()
        self._latest = both.z[:N].detach(), both.p[:N].detach()
        with torch.no_grad():
            terms["quantization_error"] = self._observe(both)
        return loss, {"loss": loss.detach(), **terms}

    def _contrastive(self, both: Quantized, memory: Tensor | None) -> Tensor:
        """Eq. 13 between reconstructions, and in `asymmetric_share` of it between embeddings and reconstructions."""
        c = self.config
        view1, view2 = both.z_hat.chunk(2)
        score = partial(
            debiased_contrastive_loss, view1, view2, memory,
            temperature=c.temperature, positive_prior=c.positive_prior,
        )  # fmt: skip
        if not c.asymmetric_share:
            return score()
        z1, z2 = self.model.quantizer.segments(both.z).flatten(1).chunk(2)
        return torch.lerp(score(), score(anchors=(z1, z2)), c.asymmetric_share)

    def _observe(self, both: Quantized) -> Tensor:
        """Count the codewords in use; the mean squared error of hard quantization, of segments of norm 1."""
        q = self.model.quantizer
        codes = both.p.argmax(dim=-1)  # (2N, M)
        self.count(codes)
        return F.mse_loss(q.segments(both.z).flatten(1), q.decode(codes), reduction="sum") / (len(codes) * q.M)

    def after_step(self) -> None:
        """Once the optimizer has stepped: codewords back to norm 1, the batch's codes into the memory."""
        if self.model.quantizer.codebooks.requires_grad:
            self.model.quantizer.renormalize_()
        if self.memory is not None:
            self.memory.push(*self._latest)

    def end_epoch(self) -> dict[str, float]:
        """Figures of the codebooks after an epoch; the counts start again."""
        similarity = codeword_diversity(self.model.quantizer.codebooks).item()
        return super().end_epoch() | {"codeword_similarity": similarity}


def rank_distance(x: Tensor, z: Tensor, z_hat: Tensor, temperature: float) -> Tensor:
    """How far embeddings z (b, D) of first views rank reconstructions z_hat (b, D) of second ones otherwise than x.

    Cosines in both, of z and z_hat at twice the temperature; x (b, F) are targets of norm 1. Not in the paper.
    """
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    cosines = F.normalize(z, dim=1) @ F.normalize(z_hat, dim=1).T
    return ranking_distillation(x @ x.T, cosines, itself, temperature=temperature, coded_temperature=2 * temperature)
