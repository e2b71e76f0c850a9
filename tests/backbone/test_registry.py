"""Backbones of the user's own: registered or offered by a package, used by every job, refused where they do not fit."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mecoq_faiss import ModelConfig, TrainConfig, evaluate, export_index, load_encoder, register_backbone, train
from mecoq_faiss.backbone import registry
from mecoq_faiss.backbone.feature_cache import fingerprint
from mecoq_faiss.backbone.network import create_backbone
from mecoq_faiss.data.sources import open_source
from mecoq_faiss.data.views import to_float


class Net(nn.Module):
    """Two layers on pixels around 0."""

    feature_dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(54, 12)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images - 0.5).relu().flatten(1))


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_builds", {})


def offer(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    """As if packages were installed that offer these as the backbone `offered`."""
    offered = EntryPoints(EntryPoint("offered", value, registry.GROUP) for value in values)
    monkeypatch.setattr(registry, "entry_points", lambda **wanted: offered.select(**wanted))


def test_the_network_is_given_the_images_as_they_are_and_keeps_its_weights() -> None:
    made: list[Net] = []
    register_backbone("mine", lambda: made.append(Net()) or made[-1])  # type: ignore[func-returns-value]
    images = torch.rand(5, 3, 8, 8)
    for weights in ("default", "none"):
        backbone = create_backbone("mine", weights, image_size=8)
        torch.testing.assert_close(backbone(images), made[-1](images), rtol=0, atol=1e-6)
        assert backbone.net is made[-1] and backbone.feature_dim == 12 and backbone.frozen
    assert len(made) == 2


def test_weights_from_a_file(tmp_path: Path) -> None:
    other = Net()
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    register_backbone("mine", Net)
    images = torch.rand(4, 3, 8, 8)
    backbone = create_backbone("mine", str(tmp_path / "w.safetensors"), image_size=8)
    torch.testing.assert_close(backbone(images), other(images), rtol=0, atol=1e-6)
    save_file({"first.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors cannot be loaded"):
        create_backbone("mine", str(tmp_path / "other.safetensors"), image_size=8)


@pytest.mark.parametrize(("layers", "learning"), [(0, set()), (1, {"second"}), (2, {"first", "second"})])
def test_the_top_layers_learn(layers: int, learning: set[str]) -> None:
    register_backbone("mine", Net)
    backbone = create_backbone("mine", trainable_layers=layers, image_size=8)
    assert {name.partition(".")[0] for name, p in backbone.net.named_parameters() if p.requires_grad} == learning


@pytest.mark.parametrize("layers", [0, 1])
def test_every_job_takes_it(layers: int, tmp_path: Path) -> None:
    register_backbone("mine", Net)
    config = ModelConfig(backbone="mine", image_size=8, trainable_layers=layers, hidden=16, D=8, M=2, nbits=4)
    model = train("digits", tmp_path / "run", config, TrainConfig(epochs=1, cached_views=2, workers=0))
    export_index(tmp_path / "run", "digits", tmp_path / "bundle", workers=0)
    source = open_source("digits", "queries")
    images = torch.stack([torch.from_numpy(np.array(source.open(i))) for i in range(4)]).permute(0, 3, 1, 2)  # type: ignore[union-attr]
    with torch.no_grad():
        features = model.backbone.net(to_float(images))
        expected = model.quantizer.segments(model.embed(features)).flatten(1).numpy()
    for folder in ("run", "bundle"):
        np.testing.assert_allclose(load_encoder(tmp_path / folder).encode(images), expected, atol=1e-5)
    assert evaluate(tmp_path / "bundle", "digits", workers=0)["queries"] == 297
    registry._builds.clear()
    with pytest.raises(
        ValueError,
        match=r"its model cannot be built here: unknown backbone 'mine'.*register_backbone in this",
    ):
        load_encoder(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["resnet50", "timm:resnet50", "timm:mine", "pixels", "features"])
def test_built_in_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^backbone '{name}' is built in: register yours by another name"):
        register_backbone(name, Net)


def test_what_is_no_name_or_builds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="'' is no name of a backbone"):
        register_backbone("", Net)
    with pytest.raises(ValueError, match="'mine': build is str, give a function that makes the network"):
        register_backbone("mine", "Net")  # type: ignore[arg-type]


def net(forward: object = None, **attributes: object) -> nn.Module:
    made = nn.Identity()
    made.forward = forward or (lambda images: images.mean((2, 3)))  # type: ignore[assignment, method-assign]
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def no_weights() -> nn.Module:
    raise OSError("no such\nfile")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (net, r"feature_dim None: set it to the width"),
        (lambda: net(feature_dim=3.0), r"feature_dim 3\.0: set it"),
        (lambda: net(feature_dim=4), r"gives \(2, 3\) torch\.float32 for 2 images, with feature_dim 4: return"),
        (lambda: net(lambda x: x.mean((1, 2, 3)), feature_dim=2), r"gives \(2,\) torch\.float32"),
        (lambda: net(lambda x: x.double().mean((2, 3)), feature_dim=3), r"gives \(2, 3\) torch\.float64"),
        (lambda: net(lambda x: (x.mean((2, 3)),), feature_dim=3), r"gives tuple for 2 images"),
        (lambda: net(lambda x: x.view(2, -1), feature_dim=192), r"does not take images .* or mend its forward"),
        (lambda: nn.Linear, r"build\(\) gave a type, return an nn\.Module"),
        (no_weights, r"cannot be built \(OSError: no such file\): mend its build"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(build: registry.Build, message: str) -> None:
    register_backbone("mine", build)
    with pytest.raises(ValueError, match=rf"^backbone 'mine'.*{message}") as error:
        create_backbone("mine", image_size=8)
    assert "\n" not in str(error.value)


def test_the_same_module_is_not_shared_by_two_models() -> None:
    one = Net()
    register_backbone("mine", lambda: one)
    create_backbone("mine", image_size=8)
    with pytest.raises(ValueError, match="same module as before, return a new one in each call"):
        create_backbone("mine", image_size=8)


def test_a_name_registered_again_has_the_new_network() -> None:
    register_backbone("mine", Net)
    register_backbone("mine", lambda: net(feature_dim=3))
    assert create_backbone("mine", image_size=8).feature_dim == 3


def test_unknown_names_are_compared_with_the_registered_ones() -> None:
    register_backbone("my-network", Net)
    with pytest.raises(ValueError, match=r"'my-netwrk': did you mean my-network\?"):
        create_backbone("my-netwrk")


def test_caches_know_what_the_code_makes_of_an_image() -> None:
    """The same name, architecture and weights, and another forward."""
    found = []
    for scale in (1, 1, 2):
        register_backbone("mine", lambda scale=scale: net(lambda x: scale * x.mean((2, 3)), feature_dim=3))  # type: ignore[misc]
        found.append(fingerprint(create_backbone("mine", image_size=8)))
    assert found[0] == found[1] != found[2]


def test_entry_points_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, f"{__name__}:Net")
    assert create_backbone("offered", image_size=8).feature_dim == 12
    register_backbone("offered", lambda: net(feature_dim=3))  # this process's goes first
    assert create_backbone("offered", image_size=8).feature_dim == 3


def test_entry_points_that_do_not_load_or_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "no_such_package.nets:Net")
    with pytest.raises(
        ValueError, match=r"^backbone 'offered', entry point no_such_package.nets:Net, does not load \(Mod"
    ):
        create_backbone("offered")
    offer(monkeypatch, "a:Net", "b:Net")
    with pytest.raises(ValueError, match="offered twice, as a:Net and b:Net: uninstall one"):
        create_backbone("offered")


def test_the_command_line_finds_an_installed_package(tmp_path: Path) -> None:
    (tmp_path / "my_nets.py").write_text(
        "import torch\n\nclass Mean(torch.nn.Module):\n    feature_dim = 3\n\n"
        "    def forward(self, images):\n        return images.mean((2, 3))\n"
    )
    info = tmp_path / "my_nets-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-nets\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mecoq_faiss.backbones]\nmy-mean = my_nets:Mean\n")
    assert importlib.metadata.entry_points(group=registry.GROUP, name="my-mean") == ()
    code = "import sys; sys.path.insert(0, sys.argv[1]); from mecoq_faiss_cli.main import main; main(sys.argv[2:])"
    call = [
        "train",
        "--data",
        "digits",
        "--out",
        tmp_path / "run",
        "--backbone",
        "my-mean",
        "--views",
        2,
        "--epochs",
        1,
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *map(str, call)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert '"backbone": "my-mean"' in (tmp_path / "run" / "config.json").read_text()
