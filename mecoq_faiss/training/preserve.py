"""The objective of codes that preserve the metric of given features: rank items as their exact scores do."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mecoq_faiss.additive import beam_search, sums
from mecoq_faiss.config import TrainConfig
from mecoq_faiss.index.residual import residual_codebooks
from mecoq_faiss.loss import ranking_distillation
from mecoq_faiss.model import MeCoQ, Rescale
from mecoq_faiss.runtime.ranks import ALONE, Ranks
from mecoq_faiss.training.neighbors import NeighborPairs, Neighbors
from mecoq_faiss.training.objective import Objective
from mecoq_faiss.training.polish import MOST_VIEWS

BEAM = 4  # of a step's codes, which need not be the best
SPREAD = 0.1  # by which cosines of pooled features deviate
FIDELITY = 1.0  # weight of the distance of sums from what they stand for


class Preserve(Objective):
    """Scores queries of a batch against its items, near neighbors of theirs among them, exactly and by codes.

    The loss is how far the two rank otherwise, and the distance of the codes' sums from their keys. The codes' gradient
    goes to their codewords, and straight through to the embedding.
    """

    def __init__(self, model: MeCoQ, config: TrainConfig, ranks: Ranks = ALONE) -> None:
        super().__init__(model, config, ranks)
        assert model.additive is not None
        self.quantizer = model.additive

    def forward(self, pair: Neighbors, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its terms, detached scalars.

        A rank scores its queries against all items, of which it makes the codes of its share.
        """
        q, n, ranks = self.quantizer, len(pair.view2), self.ranks
        xq, xb = (self.model.standardize(x) for x in (pair.view1, pair.view2))
        queries, keys = q.query(self.model.projection(xq)), q.keys(q.query(self.model.projection(xb[ranks.share(n)])))
        with torch.no_grad():
            codes = beam_search(q.codebooks, keys, BEAM)
            self.count(codes.long())
        coded = sums(q.codebooks, codes)
        items, all_keys = ranks.gather(coded + keys - keys.detach(), keys.detach(), ranks.counts(n))
        distance = (coded - keys).square().sum() / (all_keys - all_keys.mean(dim=0)).square().sum().detach()
        scores = queries @ items.T
        exact = exact_scores(xq, xb, q.metric)
        mean = exact.sum() / (pair.total * n)
        ranks.sum_([mean])
        distillation = scores.sum()  # of no queries
        if len(xq):
            spread = exact.masked_fill(pair.same, mean).std(dim=1, keepdim=True)  # of raw features it may be any
            temperature = self.config.preserve_temperature * spread.clamp_min(1e-6) / SPREAD
            distillation = ranking_distillation(exact, scores, pair.same, temperature=temperature)
            distillation = len(xq) / pair.total * distillation
        loss = distillation + FIDELITY * distance
        terms = {"loss": loss, "distillation": distillation, "quantization_error": distance}
        return loss, {name: term.detach() for name, term in terms.items()}


def exact_scores(xq: Tensor, xb: Tensor, metric: str) -> Tensor:
    """Scores (b, n) of queries (b, F) and items (n, F): cosine, inner product, or for L2 half the negative square.

    The latter less the query's own norm, which is the same for all items.
    """
    if metric == "cosine":
        return torch.nn.functional.normalize(xq, dim=1) @ torch.nn.functional.normalize(xb, dim=1).T
    return xq @ xb.T - (xb.square().sum(dim=1) / 2 if metric == "l2" else 0)


@torch.no_grad()
def start_preserving(model: MeCoQ, pairs: NeighborPairs, seed: int) -> None:
    """Where the training begins: a projection to the features' principal axes, codebooks fitted to what it gives."""
    q = model.additive
    assert q is not None and isinstance(model.standardize, Rescale)
    rows = np.random.default_rng(seed).permutation(len(pairs.features))[:MOST_VIEWS]
    x = torch.from_numpy(pairs.features[rows]).to(pairs.device)
    model.standardize.fit(x)
    x = model.standardize(x)
    linear = model.projection
    assert isinstance(linear, nn.Linear)
    width = min(q.d - (q.metric == "l2"), x.shape[1])
    axes = torch.linalg.eigh(x.double().T @ x.double()).eigenvectors.flip(1)[:, :width].T  # (width, F)
    linear.weight.zero_()[:width] = axes
    linear.bias.zero_()
    keys = q.keys(q.query(linear(x))).cpu().numpy()
    codebooks = residual_codebooks(keys, q.M, q.K, seed)  # refined by least squares they fit few rows too closely
    q.set_codebooks(torch.from_numpy(codebooks))
