"""The objective of a batch (Eq. 14): its terms, what learns, the memory's start."""

from __future__ import annotations

import pytest
import torch

from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.loss import code_entropy, codeword_diversity, debiased_contrastive_loss
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.training.contrast import Contrast
from mecoq_faiss.training.pairs import Pair

FEATURES = ModelConfig(backbone="features", weights="none", feature_dim=10, hidden=12, D=8, M=2, nbits=4)


def objective_of(model: ModelConfig = FEATURES, **settings: object) -> Contrast:
    torch.manual_seed(0)
    given = {"positive_prior": 0.15, "asymmetric_share": 0.0, "preserve_weight": 0.0} | settings
    return Contrast(MeCoQ(model), TrainConfig(**given)).train()  # type: ignore[arg-type]


def feature_pair(n: int = 6, seed: int = 1) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return Pair(torch.randn(n, 10, generator=generator), torch.randn(n, 10, generator=generator))


def learning(objective: Contrast, pair: Pair, epoch: int = 1) -> set[str]:
    """The names of the tensors that a step changes, checked against those that receive a gradient."""
    loss, _ = objective(pair, epoch)
    loss.backward()
    with_gradient = {n for n, p in objective.named_parameters() if p.grad is not None and p.grad.any()}
    before = {n: p.detach().clone() for n, p in objective.named_parameters()}
    groups = objective.parameter_groups()
    assert {id(p) for g in groups for p in g["params"]} == {
        id(p) for n, p in objective.named_parameters() if n in with_gradient
    }
    torch.optim.SGD(groups).step()
    objective.after_step()
    assert {n for n, p in objective.named_parameters() if not torch.equal(p, before[n])} == with_gradient
    return with_gradient


MLP = {f"model.projection.{layer}.{tensor}" for layer in (0, 2) for tensor in ("weight", "bias")}


def test_the_loss_is_eq_14_without_the_decay() -> None:
    objective = objective_of(diversity_weight=0.7, entropy_weight=0.3, memory_start_epoch=2)
    objective(feature_pair(seed=5), 1)
    objective.after_step()
    assert objective.memory is not None
    pair, model = feature_pair(), objective.model
    for epoch in (1, 2):
        loss, terms = objective(pair, epoch)
        _, p, z_hat = model(torch.cat(pair[:2]))
        negatives = objective.memory.reconstructions(model.quantizer) if epoch == 2 else None
        contrastive = debiased_contrastive_loss(z_hat[:6], z_hat[6:], negatives, temperature=0.5, positive_prior=0.15)
        diversity, entropy = codeword_diversity(model.quantizer.codebooks), code_entropy(p)
        torch.testing.assert_close(loss, contrastive + 0.7 * diversity + 0.3 * entropy)
        torch.testing.assert_close(terms["contrastive"], contrastive)
        torch.testing.assert_close(terms["diversity"], diversity)
        torch.testing.assert_close(terms["entropy"], entropy)
        torch.testing.assert_close(terms["loss"], loss)
        assert not any(term.requires_grad for term in terms.values())


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_loss_compares_embeddings_with_reconstructions(share: float) -> None:
    objective, pair = objective_of(asymmetric_share=share, diversity_weight=0.0), feature_pair()
    z, _, z_hat = objective.model(torch.cat(pair[:2]))
    view1, view2 = z_hat.chunk(2)
    z1, z2 = objective.model.quantizer.segments(z).flatten(1).chunk(2)
    among = debiased_contrastive_loss(view1, view2, temperature=0.5, positive_prior=0.15)
    across = debiased_contrastive_loss(view1, view2, anchors=(z1, z2), temperature=0.5, positive_prior=0.15)
    torch.testing.assert_close(objective(pair, 1)[0], (1 - share) * among + share * across)


def test_quantization_error_and_codeword_usage() -> None:
    objective, pair = objective_of(), feature_pair()
    _, terms = objective(pair, 1)
    q, z = objective.model.quantizer, objective.model.embed(torch.cat(pair[:2]))
    codes, segments, codebooks = q.encode(z), q.segments(z).detach(), q.codebooks.detach()
    total = 0.0
    for b in range(12):
        for m in range(2):
            total += float((segments[b, m] - codebooks[m, int(codes[b, m])]).square().sum())
    assert terms["quantization_error"].item() == pytest.approx(total / 24, rel=1e-5)
    used = len({(m, int(code)) for row in codes for m, code in enumerate(row)})
    assert objective.end_epoch()["codeword_usage"] == pytest.approx(used / 32)
    assert objective.end_epoch()["codeword_usage"] == 0  # counted anew each epoch


def test_all_that_should_learn_learns_and_nothing_else() -> None:
    assert learning(objective_of(), feature_pair()) == MLP | {"model.quantizer.codebooks"}


def test_frozen_codebooks() -> None:
    frozen = ModelConfig(**{**vars(FEATURES), "freeze_codebooks": True})
    assert learning(objective_of(frozen), feature_pair()) == MLP


@pytest.mark.parametrize("kind", ["soft", "feature", "hard"])
def test_memory_takes_no_gradient_but_its_codewords_do(kind: str) -> None:
    objective = objective_of(memory_size=5, memory_kind=kind, memory_start_epoch=1)
    objective(feature_pair(seed=5), 1)
    objective.after_step()
    assert objective.memory is not None and objective.memory.filled == 5
    assert learning(objective, feature_pair()) == MLP | {"model.quantizer.codebooks"}
    assert not any(b.requires_grad for b in objective.buffers())


def test_memory_starts_at_its_epoch_with_only_filled_slots() -> None:
    objective = objective_of(memory_size=50, memory_start_epoch=3)
    bare, pair = objective_of(memory_size=0), feature_pair()
    assert objective(pair, 3)[0] == bare(pair, 3)[0]  # empty still
    objective.after_step()
    assert objective.memory is not None and objective.memory.filled == 6  # one code an image
    objective.model.load_state_dict(bare.model.state_dict())
    assert objective(pair, 2)[0] == bare(pair, 2)[0]
    assert objective(pair, 3)[0] > bare(pair, 3)[0]


NETWORK = ModelConfig(
    backbone="mobilenet_v3_small", weights="none", trainable_layers=2, image_size=32, D=8, M=2, nbits=4, hidden=12
)


def test_fine_tuning_moves_the_top_layers_and_their_batch_norm_only() -> None:
    objective = objective_of(NETWORK, lr=1e6)  # an untrained network has tiny gradients
    net = objective.model.backbone.net
    before = {n: b.clone() for n, b in net.named_buffers()}
    names = learning(objective, Pair(torch.rand(6, 3, 32, 32), torch.rand(6, 3, 32, 32)))
    top = {n.removeprefix("model.backbone.net.") for n in names if "backbone" in n}
    # the classifier's hidden layer, and the last convolution with its batch-norm
    assert top == {"classifier.0.weight", "classifier.0.bias", "features.12.0.weight", "features.12.1.weight",
                   "features.12.1.bias"}  # fmt: skip
    moved = {n for n, b in net.named_buffers() if not torch.equal(b, before[n])}
    assert moved == {f"features.12.1.{s}" for s in ("running_mean", "running_var", "num_batches_tracked")}


def test_a_frozen_network_stays_whole() -> None:
    objective = objective_of(ModelConfig(**{**vars(NETWORK), "trainable_layers": 0}))
    before = {n: t.clone() for n, t in objective.model.backbone.state_dict().items()}
    assert learning(objective, Pair(torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32))) == MLP | {
        "model.quantizer.codebooks"
    }
    assert all(torch.equal(t, before[n]) for n, t in objective.model.backbone.state_dict().items())
    assert not any("backbone" in name for name in objective.training_state())
    assert any("backbone" in name for name in objective_of(NETWORK).training_state())
