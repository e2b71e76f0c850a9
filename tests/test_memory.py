"""The code memory against a `collections.deque`."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mecoq_faiss.memory import KINDS, CodeMemory
from mecoq_faiss.quantizer import SoftProductQuantizer


def by_eq_1(z: torch.Tensor, M: int = 2) -> torch.Tensor:
    """Z = [z^1, ..., z^M], each z^m divided by its norm."""
    return torch.cat([z_m / z_m.square().sum().sqrt() for z_m in z.chunk(M)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 5, 12])
def test_it_is_a_queue(kind: str, size: int) -> None:
    torch.manual_seed(0)
    quantizer = SoftProductQuantizer(6, 2, 256)
    memory = CodeMemory(size, quantizer, kind)
    model: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=size)
    assert memory.reconstructions(quantizer) is None
    for batch in (3, 1, 4, 13, 2, 30, 5, 5):  # some larger than the memory, none that divides it every time
        z = torch.randn(batch, 6)
        p = quantizer.soft_codes(z).detach()
        memory.push(z, p)
        model.extend(zip(z, p, strict=True))
        with torch.no_grad():  # what is kept is decoded with the codebooks of today
            quantizer.codebooks.copy_(torch.randn(2, 256, 3))
        kept_z, kept_p = (torch.stack(list(column)) for column in zip(*model, strict=True))
        expected = {
            "feature": lambda z=kept_z: torch.stack([by_eq_1(row) for row in z]),
            "soft": lambda p=kept_p: quantizer.decode(p),
            "hard": lambda p=kept_p: quantizer.decode(p.argmax(-1)),
        }[kind]()
        found = memory.reconstructions(quantizer)
        assert found is not None and memory.filled == len(model) == len(found)
        oldest = int(memory.pushed) % size if memory.filled == size else 0
        torch.testing.assert_close(found.roll(-oldest, 0), expected, atol=1e-6, rtol=0)


def test_it_is_saved_with_its_place() -> None:
    quantizer = SoftProductQuantizer(4, 2, 16)
    memory, other = CodeMemory(5, quantizer), CodeMemory(5, quantizer)
    z = torch.randn(7, 4)
    memory.push(z, quantizer.soft_codes(z))
    other.load_state_dict(memory.state_dict())
    for each in (memory, other):
        each.push(z[:2], quantizer.soft_codes(z[:2]))
    assert torch.equal(memory.slots, other.slots)
    assert not memory.slots.requires_grad and not list(memory.parameters())


def test_refuses() -> None:
    quantizer = SoftProductQuantizer(4, 2, 16)
    with pytest.raises(ValueError, match="0 slots"):
        CodeMemory(0, quantizer)
    with pytest.raises(ValueError, match="unknown memory kind 'sft'"):
        CodeMemory(4, quantizer, "sft")


@given(st.integers(1, 9), st.lists(st.integers(0, 20), max_size=8), st.sampled_from(KINDS))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_it_holds_the_last_codes_whatever_was_pushed(size: int, batches: list[int], kind: str) -> None:
    quantizer = SoftProductQuantizer(2, 1, 256)
    memory = CodeMemory(size, quantizer, kind)
    pushed = 0
    for batch in batches:
        numbers = torch.arange(pushed, pushed + batch)
        z = torch.stack([numbers, numbers], dim=1).float()
        p = torch.nn.functional.one_hot(numbers % 256, 256).float()[:, None]  # (b, 1, 256)
        memory.push(z, p)
        pushed += batch
    kept = memory.slots[: memory.filled]
    found = {"feature": lambda: kept[:, 0], "soft": lambda: kept.argmax(-1)[:, 0], "hard": lambda: kept[:, 0]}[kind]()
    assert sorted(found.long().tolist()) == list(range(max(0, pushed - size), pushed))
    assert int(memory.pushed) == pushed
