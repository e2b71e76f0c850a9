"""Two learned controls with k-means codebooks: contrast without a quantizer in the loss, and a distilled PQ.

`fit_unquantized` says what the quantizer in the loss is worth: the embedding is contrasted as it is, and spherical
k-means of its segments gives the codebooks afterwards.

`fit_distilled` is in the way of LibVQ (S. Xiao et al., Distill-VQ: Learning Retrieval Oriented Vector Quantization by
Distilling Knowledge from Dense Embeddings, SIGIR 2022): it starts from OPQ, and learns the rotation and the codewords
so that inner products with codes rank a query's candidates as those with exact vectors do, without labels or views.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.paper.experiment import Settings, targets_from
from mecoq_faiss.baselines import Baseline
from mecoq_faiss.config import make_configs
from mecoq_faiss.loss import debiased_contrastive_loss
from mecoq_faiss.model import MeCoQ, Standardize
from mecoq_faiss.training.contrast import rank_distance
from mecoq_faiss.training.pairs import CachedPairs
from mecoq_faiss.training.start import batch_size

Array = NDArray[Any]
KMEANS_ROUNDS, KMEANS_ROWS = 15, 65_536
EMBEDDED_AT_ONCE = 4096


def spherical_kmeans(x: Array, K: int, seed: int, rounds: int = KMEANS_ROUNDS) -> Array:
    """K unit codewords (K, d) of unit vectors x (n, d): each the direction of the mean of those nearest to it.

    A codeword that loses all its vectors takes the place of the vector that is worst served.
    """
    if len(x) < K:
        raise ValueError(f"{len(x)} vectors for {K} codewords: give at least as many")
    C = x[np.random.default_rng(seed).choice(len(x), K, replace=False)].copy()
    for _ in range(rounds):
        similarity = x @ C.T  # (n, K)
        nearest = similarity.argmax(1)
        sums = np.zeros((K, x.shape[1]))
        np.add.at(sums, nearest, x)
        lost = np.flatnonzero(np.bincount(nearest, minlength=K) == 0)
        sums[lost] = x[np.argsort(similarity.max(1))[: len(lost)]]
        C = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return C


def fit_unquantized(views: Array, settings: Settings, xt: Array | None = None) -> MeCoQ:
    """Train the embedding alone on views (n, V, F), then cut it into segments and give each its k-means codewords.

    The loss is the settings' (Eq. 6, 7) of the segment-normalised embedding, and their distillation of the fixed views
    xt (n, F), if given; there is no memory and no regulariser, which have no meaning without codes.
    """
    model_config, c = make_configs(**settings | {"feature_dim": views.shape[-1]})
    torch.manual_seed(c.seed)
    model = MeCoQ(model_config).train()
    if isinstance(model.standardize, Standardize):
        model.standardize.fit(torch.from_numpy(np.asarray(views[:, 0], dtype=np.float32)))
    optimizer = torch.optim.Adam(model.projection.parameters(), lr=c.lr, weight_decay=c.weight_decay)
    pairs = CachedPairs(views, batch_size(len(views), c), c.seed, "cpu")
    steps = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, c.epochs * pairs.steps_per_epoch))
    targets = None if xt is None else targets_from(xt, c)
    for epoch in range(1, c.epochs + 1):
        for pair in pairs.batches(epoch):
            z1, z2 = model.vectors(torch.cat([pair.view1, pair.view2])).chunk(2)
            loss = debiased_contrastive_loss(z1, z2, temperature=c.temperature, positive_prior=c.positive_prior)
            if c.preserve_weight and targets and pair.rows is not None:
                x = targets.take(pair.rows)
                loss = loss + c.preserve_weight * rank_distance(x, z1, z2, c.preserve_temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            steps.step()
    model.eval()
    _set_codebooks(model, views, c.seed)
    return model


@torch.no_grad()
def _set_codebooks(model: MeCoQ, views: Array, seed: int) -> None:
    x = views.reshape(-1, views.shape[-1])
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:KMEANS_ROWS])
    parts = (rows[i : i + EMBEDDED_AT_ONCE] for i in range(0, len(rows), EMBEDDED_AT_ONCE))
    z = torch.cat([model.vectors(torch.from_numpy(np.asarray(x[part], dtype=np.float32))) for part in parts])
    c = model.config
    segments = z.numpy().reshape(len(z), c.M, -1)
    books = [spherical_kmeans(np.ascontiguousarray(segments[:, m]), c.K, seed + m) for m in range(c.M)]
    model.quantizer.codebooks.copy_(torch.from_numpy(np.stack(books)))


class DistilledPQ(nn.Module):
    """A rotation and codebooks, started at a trained OPQ's: features x (b, F) -> its vectors and their codes.

    Features are first standardised and normalised, as `fit_distilled` measured them.
    """

    def __init__(self, prepare: Any, A: Array, codebooks: Array) -> None:
        super().__init__()
        self.prepare = prepare  # FAISS transforms, fixed
        self.rotation = nn.Parameter(torch.from_numpy(A.copy()))  # (D, F)
        self.codebooks = nn.Parameter(torch.from_numpy(codebooks.copy()))  # (M, K, d)

    def exact(self, x: Array) -> Tensor:
        """Raw features (b, F) -> standardised and normalised ones: what is to be preserved."""
        x = np.ascontiguousarray(x, dtype=np.float32)
        for transform in self.prepare:
            x = transform.apply(x)
        return torch.from_numpy(x)

    def quantized(self, y: Tensor) -> Tensor:
        """Rotated vectors y (b, D) -> their nearest codewords (b, D); the gradient goes to both (straight through)."""
        M, _, d = self.codebooks.shape
        segments = y.reshape(len(y), M, d)
        distance = torch.cdist(segments.detach().transpose(0, 1), self.codebooks.detach())  # (M, b, K)
        chosen = self.codebooks[torch.arange(M)[:, None], distance.argmin(-1)].transpose(0, 1)  # (b, M, d)
        return (chosen + segments - segments.detach()).flatten(1)

    @torch.no_grad()
    def queries(self, x: Array) -> Array:
        """What the index of `index` takes, (b, D) float32."""
        return (self.exact(x) @ self.rotation.T).numpy()

    def index(self, xb: Array) -> faiss.IndexPQ:
        """FAISS's plain IndexPQ of features xb (n, F)."""
        M, K, d = self.codebooks.shape
        index: Any = faiss.IndexPQ(M * d, M, K.bit_length() - 1, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(self.codebooks.detach().numpy().ravel(), index.pq.centroids)
        index.is_trained = True
        index.add(self.queries(xb))
        return index


def distillation_loss(exact: Tensor, coded: Tensor, temperature: float) -> Tensor:
    """Listwise: KL from the softmax of exact to that of coded inner products (b, n), the mean over the queries."""
    target = F.log_softmax(exact / temperature, dim=1)
    return F.kl_div(F.log_softmax(coded / temperature, dim=1), target, reduction="batchmean", log_target=True)


def distilled_defaults() -> dict[str, Any]:
    """Settings of `fit_distilled`: keys of a query are its batch and `neighbors` drawn from its `near` nearest."""
    return {"width": 64, "epochs": 10, "batch_size": 128, "neighbors": 10, "near": 50, "temperature": 0.05,
            "lr": 1e-3, "rotation_lr": 3e-4, "reconstruction": 0.1}  # fmt: skip


def fit_distilled(xt: Array, num_bytes: int, seed: int, settings: dict[str, Any] | None = None) -> DistilledPQ:
    """Train on features xt (n, F): OPQ by FAISS, then distillation by Adam."""
    s = distilled_defaults() | (settings or {})
    start = Baseline("OPQ", num_bytes, 8, "standardised+normalised", "IP", width=s["width"]).fit(xt, seed)
    model = _from_opq(start.trained)
    x = model.exact(xt)
    flat = faiss.IndexFlatIP(x.shape[1])
    flat.add(x.numpy())
    near = flat.search(x.numpy(), min(s["near"] + 1, len(x)))[1][:, 1:]  # itself left out
    optimizer = torch.optim.Adam(
        [{"params": [model.codebooks], "lr": s["lr"]}, {"params": [model.rotation], "lr": s["rotation_lr"]}]
    )
    rng = np.random.default_rng(seed)
    for _ in range(s["epochs"]):
        order = rng.permutation(len(x))
        for first in range(0, len(order), s["batch_size"]):
            rows = order[first : first + s["batch_size"]]
            drawn = near[rows[:, None], rng.integers(0, near.shape[1], (len(rows), s["neighbors"]))]
            keys = np.unique(np.concatenate([drawn.ravel(), rows]))
            loss = _loss(model, x[rows], x[keys], torch.from_numpy(keys == rows[:, None]), s)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return model


def _loss(model: DistilledPQ, q: Tensor, keys: Tensor, same: Tensor, s: dict[str, Any]) -> Tensor:
    y = keys @ model.rotation.T
    coded = model.quantized(y)
    exact, found = ((a @ b.T).masked_fill(same, -1e4) for a, b in ((q, keys), (q @ model.rotation.T, coded)))
    return distillation_loss(exact, found, s["temperature"]) + s["reconstruction"] * (y - coded).square().sum(1).mean()


def _from_opq(trained: Any) -> DistilledPQ:
    """The transforms, the rotation and the centroids of FAISS's trained chain."""
    transforms: list[Any] = [faiss.downcast_VectorTransform(trained.chain.at(i)) for i in range(trained.chain.size())]
    *prepare, opq = transforms
    code: Any = faiss.downcast_index(trained.index)
    pq = code.pq
    A = faiss.vector_to_array(opq.A).reshape(opq.d_out, opq.d_in)
    model = DistilledPQ(prepare, A, faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub))
    model.trained = trained  # owns the transforms
    return model
