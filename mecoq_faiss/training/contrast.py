"""The contrastive objective (Eq. 14) of a batch: model, memory and loss terms put together."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mecoq_faiss.config import TrainConfig
from mecoq_faiss.loss import code_entropy, codeword_diversity, debiased_contrastive_loss, ranking_distillation
from mecoq_faiss.memory import CodeMemory
from mecoq_faiss.model import MeCoQ, Quantized
from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.training.objective import Objective
from mecoq_faiss.training.pairs import Pair
from mecoq_faiss.training.targets import Targets


class _Batch(NamedTuple):
    """Of all N images of a batch: reconstructions, first views' before second ones', and first views' codes."""

    keys: Tensor  # (2N, D)
    own: slice  # this rank's images, whose anchors it scores
    z: Tensor  # (N, D), without gradient
    p: Tensor  # (N, M, K), without gradient


class Contrast(Objective):
    """Scores a pair of views and keeps the code memory and the codeword counts of the epoch.

    The memory receives the codes of each image's first view (N slots a step), and takes part from
    `memory_start_epoch` on. `targets` are needed where `preserve_weight` is set.
    """

    def __init__(self, model: MeCoQ, config: TrainConfig, targets: Targets | None = None, ranks: Ranks = ALONE) -> None:
        super().__init__(model, config, ranks)
        self.targets = targets
        q = model.quantizer
        self.memory = CodeMemory(config.memory_size, q, config.memory_kind) if config.memory_size else None

    def forward(self, pair: Pair, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one batch in epoch `epoch` (from 1), and its terms, detached scalars."""
        c, n = self.config, len(pair.view1)
        share = n / pair.total
        both: Quantized = self.model(torch.cat([pair.view1, pair.view2]))
        batch = self._whole(both, pair)
        memory = None
        if self.memory is not None and epoch >= c.memory_start_epoch:
            memory = self.memory.reconstructions(self.model.quantizer)
        contrastive = self._contrastive(both, batch, memory)
        diversity = codeword_diversity(self.model.quantizer.codebooks) / self.ranks.size
        loss = contrastive + c.diversity_weight * diversity  # Eq. 14; its decay of the weights is the optimizer's
        terms = {"contrastive": contrastive.detach(), "diversity": diversity.detach()}
        if c.entropy_weight:
            entropy = share * code_entropy(both.p) if n else both.p.sum()
            loss = loss + c.entropy_weight * entropy
            terms["entropy"] = entropy.detach()
        if c.preserve_weight:
            assert self.targets is not None and pair.rows is not None
            distillation = torch.zeros_like(contrastive)
            if n:
                x, z = self.targets.take(pair.rows), self.model.quantizer.segments(both.z[:n]).flatten(1)
                distillation = share * rank_distance(x, z, batch.keys[pair.total :], c.preserve_temperature, batch.own)
            loss = loss + c.preserve_weight * distillation
            terms["distillation"] = distillation.detach()
        self._latest = batch.z, batch.p
        with torch.no_grad():
            terms["quantization_error"] = self._observe(both) * share if n else torch.zeros_like(contrastive)
        return loss, {"loss": loss.detach(), **terms}

    def _whole(self, both: Quantized, pair: Pair) -> _Batch:
        """What this rank's anchors are compared with, and the memory receives, of all ranks' images."""
        q, n = self.model.quantizer, len(pair.view1)
        z, p = both.z[:n].detach(), both.p[:n].detach()
        if pair.counts is None or self.ranks.size == 1:
            return _Batch(both.z_hat, slice(n), z, p)
        views = torch.cat([both.z_hat[:n], both.z_hat[n:]], dim=1)  # (n, 2D)
        views, z = self.ranks.gather(views, z.to(both.z_hat.dtype), pair.counts)
        with torch.no_grad():
            p = q.soft_codes(z)  # K numbers a segment, made again from d that are sent
        before = sum(pair.counts[: self.ranks.rank])
        return _Batch(torch.cat(views.chunk(2, dim=1)), slice(before, before + n), z, p)

    def _contrastive(self, both: Quantized, batch: _Batch, memory: Tensor | None) -> Tensor:
        """Eq. 13 between reconstructions, and in `asymmetric_share` of it between embeddings and reconstructions."""
        c = self.config
        view1, view2 = batch.keys.chunk(2)
        score = partial(
            debiased_contrastive_loss, view1, view2, memory,
            images=batch.own, temperature=c.temperature, positive_prior=c.positive_prior,
        )  # fmt: skip
        if not c.asymmetric_share:
            return score()
        z = self.model.quantizer.segments(both.z).flatten(1)
        n = len(z) // 2
        return torch.lerp(score(), score(anchors=(z[:n], z[n:])), c.asymmetric_share)

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


def rank_distance(x: Tensor, z: Tensor, z_hat: Tensor, temperature: float, own: slice = slice(None)) -> Tensor:
    """How far embeddings z (n, D) of first views rank reconstructions z_hat (b, D) of second ones otherwise than x.

    Cosines in both, of z and z_hat at twice the temperature; x (b, F) are targets of norm 1. The n images are those of
    the slice `own` of the b. Not in the paper.
    """
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)[own]
    cosines = F.normalize(z, dim=1) @ F.normalize(z_hat, dim=1).T
    exact = x[own] @ x.T
    return ranking_distillation(exact, cosines, itself, temperature=temperature, coded_temperature=2 * temperature)
