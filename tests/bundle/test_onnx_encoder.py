"""onnxruntime in the model's place: what it takes and gives; graphs that are damaged or foreign."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from mecoq_faiss import ModelConfig, TrainConfig, export_index, load_encoder, open_bundle, train
from mecoq_faiss.bundle.folder import ONNX, read_manifest, write_manifest
from mecoq_faiss.bundle.onnx_encoder import KEY


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    model = ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=16)
    train(photos, folder / "run", model, TrainConfig(epochs=1, batch_size=50, cached_views=2))
    export_index(folder / "run", photos, folder / "bundle", onnx=True, workers=0)
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))


def resign(bundle: Path, **changes: object) -> None:
    """The manifest, made to match what the files became."""
    manifest = read_manifest(bundle)
    kept = {name: value for name, value in manifest.items() if name not in ("format", "files")}
    write_manifest(bundle, kept | changes, [*manifest["files"]])


def test_it_takes_the_same_images_bit_for_bit(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(rng.integers(0, 256, (90, 60, 3), dtype=np.uint8)).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(rng.integers(0, 65536, (9, 13)).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(rng.integers(0, 256, (8, 11, 4), dtype=np.uint8)).save(tmp_path / "alpha.png")
    files = [tmp_path / name for name in ("turned.jpg", "deep.png", "alpha.png")]
    tensor = torch.from_numpy(rng.integers(0, 256, (2, 3, 7, 9), dtype=np.uint8))
    pictures = (files, files[0].read_bytes(), Image.open(files[1]), tensor, tensor[0] / 255, [tensor[1], files[2]])
    given: dict[str, list[np.ndarray]] = {"torch": [], "onnx": []}
    for runtime, batches in given.items():
        encoder = load_encoder(bundle, runtime=runtime)
        monkeypatch.setattr(encoder, "encode_batch", lambda batch, batches=batches: batches.append(batch) or batch)
        for images in pictures:
            encoder.encode(images)
    assert len(given["torch"]) == 6
    for of_model, of_graph in zip(*given.values(), strict=True):
        assert of_model.dtype == np.uint8
        np.testing.assert_array_equal(of_model, of_graph)


def test_hits_are_those_of_the_model(bundle: Path, photos: Path) -> None:
    paths = sorted(photos.iterdir())
    with open_bundle(bundle, "cpu") as of_model, open_bundle(bundle, runtime="onnx") as of_graph:
        np.testing.assert_allclose(of_graph.encoder.encode(paths), of_model.encoder.encode(paths), atol=1e-5)
        for one, other in zip(of_model.search(paths, 1), of_graph.search(paths, 1), strict=True):
            assert one[0].path == other[0].path
        assert not of_graph.reload()
        of_graph.remove([5])
        assert len(of_graph) == len(paths) - 1 and read_manifest(bundle)["files"].keys() >= {ONNX}
        assert of_graph.encoder.encode(paths[:1]).shape == (1, 16)


def test_a_file_of_its_own_serves_too(bundle: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copy(bundle / ONNX, tmp_path / "away.onnx")
    path = next(photos.iterdir())
    np.testing.assert_array_equal(
        load_encoder(tmp_path / "away.onnx", runtime="onnx").encode(path),
        load_encoder(bundle, runtime="onnx").encode(path, for_database=True),
    )


@pytest.mark.parametrize("content", [b"", b"no graph", None])
def test_a_damaged_graph(content: bytes | None, bundle: Path) -> None:
    whole = (bundle / ONNX).read_bytes()
    (bundle / ONNX).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=r"encoder\.onnx differs from the manifest"):
        open_bundle(bundle, runtime="onnx")
    resign(bundle)
    for open_it in (open_bundle, load_encoder):
        with pytest.raises(ValueError, match=r"encoder\.onnx (cannot be read by onnxruntime|is no encoder of mecoq)"):
            open_it(bundle, runtime="onnx")
    assert len(load_encoder(bundle).encode([])) == 0


def altered(path: Path, said: object) -> None:
    """The graph with other metadata."""
    model = onnx.load(path)
    [prop] = [prop for prop in model.metadata_props if prop.key == KEY]
    prop.value = json.dumps(said)
    onnx.save(model, path)


def test_a_foreign_graph(bundle: Path) -> None:
    foreign: list[object] = ["", {}, [], {"format": 1}]
    for said in foreign:
        altered(bundle / ONNX, said)
        with pytest.raises(ValueError, match=r"encoder\.onnx is no encoder of mecoq-faiss: give what export-encoder"):
            load_encoder(bundle / ONNX, runtime="onnx")
    altered(bundle / ONNX, {"format": 2, "codes": "product"})
    with pytest.raises(ValueError, match=r"made by another mecoq-faiss \(format 2\)"):
        load_encoder(bundle / ONNX, runtime="onnx")
    altered(bundle / ONNX, {"format": 1, "codes": "additive"})
    resign(bundle)
    with pytest.raises(ValueError, match=r"encoder\.onnx does not fit the manifest"):
        load_encoder(bundle, runtime="onnx")
    with pytest.raises(ValueError, match=r"additive codes are found by torch: .* runtime='torch'"):
        load_encoder(bundle / ONNX, runtime="onnx").encode(Image.new("RGB", (9, 9)), for_database=True)


def test_a_graph_reaches_no_other_file(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    model = onnx.load(bundle / ONNX)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.raw_data)
    (bundle / "secret.bin").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, "secret.bin")
    tensor.ClearField("raw_data")
    (bundle / ONNX).write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"encoder\.onnx cannot be read by onnxruntime"):
        load_encoder(bundle / ONNX, runtime="onnx")


def test_other_inputs_than_an_encoders(bundle: Path) -> None:
    model = onnx.load(bundle / ONNX)
    model.graph.input[0].type.tensor_type.shape.dim[-1].Clear()  # of any width
    onnx.save(model, bundle / ONNX)
    with pytest.raises(ValueError, match=r"encoder\.onnx (is damaged|cannot be read)"):
        load_encoder(bundle / ONNX, runtime="onnx")


def test_no_graph_no_runtime_no_gpu(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"runtime='tensorrt': choose torch or onnx"):
        open_bundle(bundle, runtime="tensorrt")
    with pytest.raises(ValueError, match=r"device='cuda': runtime='onnx' is for the CPU"):
        open_bundle(bundle, "cuda", runtime="onnx")
    with pytest.raises(FileNotFoundError, match="is no bundle and no file"):
        load_encoder(tmp_path / "nowhere", runtime="onnx")
    with (
        monkeypatch.context() as patch,
        pytest.raises(ImportError, match=r"onnxruntime: pip install 'mecoq-faiss\[onnx"),
    ):
        patch.setitem(sys.modules, "onnxruntime", None)
        open_bundle(bundle, runtime="onnx")
    manifest = read_manifest(bundle)
    kept = {name: value for name, value in manifest.items() if name not in ("format", "files")}
    write_manifest(bundle, kept)
    (bundle / ONNX).unlink()
    for open_it in (open_bundle, load_encoder):
        with pytest.raises(ValueError, match=r"lacks encoder\.onnx: export it with --onnx, or take runtime='torch'"):
            open_it(bundle, runtime="onnx")
