"""An encoder's configuration and weights that do not fit each other, or the manifest: one line, and no memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from mecoq_faiss import load_encoder
from mecoq_faiss.storage.checksum import checksum
from tests.bounded import refusal
from tests.bundle.hostile import altered_manifest, jobs, old_bundle, sign

CONFIG, WEIGHTS = "encoder/config.json", "encoder/model.safetensors"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return old_bundle(tmp_path)


def refused(bundle: Path, name: str) -> str:
    sign(bundle)
    said = {refusal(call, str(bundle / name)) for call in (lambda: load_encoder(bundle), *jobs(bundle).values())}
    assert len({message[:100] for message in said}) == 1  # torch names tensors in any order
    return said.pop()


def put_tensors(bundle: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(bundle / WEIGHTS)
    change(state)
    (bundle / WEIGHTS).write_bytes(save(state, metadata={"sha256": checksum(state)}))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("M", 4, "has M=4, the manifest of"),
        ("nbits", 8, "has nbits=8, the manifest of"),
        ("D", 16, "has D=16, the manifest of"),
        ("image_size", 10**6, "image_size=1000000 must be at most 8192"),
        ("M", "2", "M='2' must be of type int"),
        ("alpha", None, "alpha=None must be of type float"),
        ("alpha", float("nan"), "alpha=nan must be a finite number"),
        ("D", [8], "D=[8] must be of type int"),
        ("more", 1, "unexpected keyword argument 'more'"),
        ("projection", "none", "choose one of linear, mlp"),
    ],
)
def test_a_configuration_of_another_model(bundle: Path, name: str, value: Any, says: str) -> None:
    content = json.loads((bundle / CONFIG).read_text())
    content["model"][name] = value
    (bundle / CONFIG).write_text(json.dumps(content))
    assert says in refused(bundle, CONFIG)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", 10**6), ("feature_dim", 10**7), ("backbone", "pixels"), ("hidden", 12), ("feature_dim", 13),
     ("standardize", False), ("projection", "linear")],
)  # fmt: skip
def test_weights_of_another_model(bundle: Path, name: str, value: Any) -> None:
    content = json.loads((bundle / CONFIG).read_text())
    content["model"] |= {name: value} | ({"image_size": 8000} if value == "pixels" else {})
    (bundle / CONFIG).write_text(json.dumps(content))
    refused(bundle, WEIGHTS)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"null", b'{"model": []}', b'{"model": null}', b"[" * 200_000, b"\xff\xfe", b" " * ((1 << 20) + 1),
     b'{"model": {}, "train": []}', b'{"model": {"M": ' + b"9" * 5000 + b"}}"],
)  # fmt: skip
def test_texts_that_are_no_configuration(bundle: Path, text: bytes) -> None:
    (bundle / CONFIG).write_bytes(text)
    refused(bundle, CONFIG)


def convert(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda state: state.update({name: tensor.to(dtype) for name, tensor in state.items()})


CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "float64": convert(torch.float64),
    "float16": convert(torch.float16),
    "int64": convert(torch.int64),
    "complex64": convert(torch.complex64),
    "one of another type": lambda state: state.update({k: v.double() for k, v in list(state.items())[:1]}),
    "one missing": lambda state: state.popitem(),
    "one more": lambda state: state.update(more=torch.zeros(3)),
    "none": lambda state: state.clear(),
    "flat": lambda state: state.update({k: v.flatten() for k, v in state.items()}),
    "codebooks of fewer words": lambda state: state.update(
        {k: v[:, :8].contiguous() for k, v in state.items() if "codebooks" in k}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_of_another_kind(bundle: Path, change: str) -> None:
    put_tensors(bundle, CHANGES[change])
    refused(bundle, WEIGHTS)


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\xff" * 8, (2**40).to_bytes(8, "little"), header(b"[]"), header(b"{}"), header(b"[" * 90_000),
     header(b'{"__metadata__": null}'), header(b'{"__metadata__": []}'), header(b'{"__metadata__": {"sha256": 1}}'),
     header(b'{"a": {"dtype": "F8_E8M0", "shape": [0], "data_offsets": [0, 0]}}'),
     header(b'{"a": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}}'),
     header(b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}')],
)  # fmt: skip
def test_files_that_are_no_weights(bundle: Path, content: bytes) -> None:
    (bundle / WEIGHTS).write_bytes(content + bytes(4000))
    refused(bundle, WEIGHTS)
    (bundle / WEIGHTS).write_bytes(content)
    refused(bundle, WEIGHTS)


def test_the_manifest_of_another_model(bundle: Path) -> None:
    with altered_manifest(bundle) as manifest:
        manifest |= {"M": 1, "nbits": 8}
    assert "has M=2, the manifest of" in refused(bundle, CONFIG)
