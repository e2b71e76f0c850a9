"""The training objective (Eq. 14) of a batch: model, memory and loss terms put together."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mecoq_faiss.config import TrainConfig
from mecoq_faiss.loss import code_entropy, codeword_diversity, debiased_contrastive_loss
from mecoq_faiss.memory import CodeMemory
from mecoq_faiss.model import MeCoQ, Quantized
from mecoq_faiss.training.pairs import Pair


class Objective(nn.Module):
    """Scores a pair of views and keeps the code memory and the codeword counts of the epoch.

    The memory receives the codes of each image's first view (N slots a step), and takes part from
    `memory_start_epoch` on.
    """

    def __init__(self, model: MeCoQ, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        q = model.quantizer
        self.memory = CodeMemory(config.memory_size, q, config.memory_kind) if config.memory_size else None
        self.register_buffer("counts", torch.zeros(q.M, q.K, dtype=torch.int64))

    counts: Tensor

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
        self.counts.scatter_add_(1, codes.T, torch.ones_like(codes.T))
        return F.mse_loss(q.segments(both.z).flatten(1), q.decode(codes), reduction="sum") / (len(codes) * q.M)

    def after_step(self) -> None:
        """Once the optimizer has stepped: codewords back to norm 1, the batch's codes into the memory."""
        if self.model.quantizer.codebooks.requires_grad:
            self.model.quantizer.renormalize_()
        if self.memory is not None:
            self.memory.push(*self._latest)

    def end_epoch(self) -> dict[str, float]:
        """Figures of the codebooks after an epoch; the counts start again."""
        usage = (self.counts > 0).float().mean().item()
        self.counts.zero_()
        return {
            "codeword_usage": usage,
            "codeword_similarity": codeword_diversity(self.model.quantizer.codebooks).item(),
        }

    def parameter_groups(self) -> list[dict]:
        """The optimizer's groups: backbone, projection, codebooks, each with its own rate and weight decay."""
        c, m = self.config, self.model
        parts = [
            ("backbone", m.backbone, c.lr * c.backbone_lr_scale, c.weight_decay),
            ("projection", m.projection, c.lr, c.weight_decay),
            ("codebooks", m.quantizer, c.lr * c.codebook_lr_scale, 0.0),
        ]
        groups = []
        for name, module, lr, weight_decay in parts:
            parameters = [p for p in module.parameters() if p.requires_grad]
            if parameters:
                groups.append({"name": name, "params": parameters, "lr": lr, "weight_decay": weight_decay})
        return groups

    def optimizer(self) -> torch.optim.Optimizer:
        """Of the parameter groups, as the configuration says."""
        groups = self.parameter_groups()
        if self.config.optimizer == "adam":
            return torch.optim.Adam(groups, fused=True)  # one pass over the weights instead of five
        return torch.optim.SGD(groups, momentum=self.config.momentum)

    def training_state(self) -> dict[str, Tensor]:
        """What a checkpoint needs: all but a frozen backbone."""
        frozen = self.model.backbone.frozen
        return {k: v for k, v in self.state_dict().items() if not (frozen and k.startswith("model.backbone."))}
