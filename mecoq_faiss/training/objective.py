"""What training needs of an objective beside its loss: parameter groups, optimizer, counts of codewords, state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mecoq_faiss.config import TrainConfig
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.runtime.ranks import ALONE, Ranks


class Objective(nn.Module):
    """Scores a batch of pairs; counts the codewords in use since the epoch began, `counts` (M, K).

    On several ranks a loss and its terms are a rank's parts, which sum up to those of one rank with the whole batch,
    and so do their gradients.
    """

    def __init__(self, model: MeCoQ, config: TrainConfig, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.model, self.config, self.ranks = model, config, ranks
        self.register_buffer("counts", torch.zeros(model.config.M, model.config.K, dtype=torch.int64))

    counts: Tensor

    def forward(self, pair: Any, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one batch in epoch `epoch` (from 1), and its terms, detached scalars."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Once the optimizer has stepped."""

    def end_epoch(self) -> dict[str, float]:
        """Figures of the codebooks after an epoch; the counts start again."""
        self.collect_counts()
        usage = (self.counts > 0).float().mean().item()
        self.counts.zero_()
        return {"codeword_usage": usage}

    def count(self, codes: Tensor) -> None:
        """Count the codewords that codes (b, M) use."""
        self.counts.scatter_add_(1, codes.T, torch.ones_like(codes.T))

    def collect_counts(self) -> None:
        """The first rank counts what all have counted."""
        self.ranks.sum_([self.counts])
        if not self.ranks.first:
            self.counts.zero_()

    def parameter_groups(self) -> list[dict]:
        """The optimizer's groups: backbone, projection, codebooks, each with its own rate and weight decay."""
        c, m = self.config, self.model
        codebooks = m.additive if m.preserves and m.additive else m.quantizer
        parts = [
            ("backbone", m.backbone, c.lr * c.backbone_lr_scale, c.weight_decay),
            ("projection", m.projection, c.lr, c.weight_decay),
            ("codebooks", codebooks, c.lr * c.codebook_lr_scale, 0.0),
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
