"""What `pip install .` puts into an environment: built as a wheel from a clean tree, and used without the tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from mecoq_faiss import ModelConfig, TrainConfig, export_index, search, train
from mecoq_faiss.data.sources import ImageSource, open_source

ROOT = Path(__file__).parents[2]
PACKAGES = {"mecoq_faiss": "mecoq_faiss", "mecoq_faiss_cli": "cli"}  # name -> folder of the tree
BUILT = shutil.ignore_patterns("__pycache__")


def run(*arguments: str | Path, cwd: Path) -> str:
    """Stdout of a child that sees neither PYTHONPATH nor the tree; its stderr where it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    for name in PACKAGES.values():
        shutil.copytree(ROOT / name, tree / name, ignore=BUILT)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = (sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index")
    run(*build, "--wheel-dir", folder, cwd=tree)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `python` and `mecoq-faiss` in an environment of the wheel and this one's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    places = {"base": str(folder), "platbase": str(folder), "installed_base": str(folder)}
    scripts = Path(sysconfig.get_path("scripts", "venv", places))
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-deps", "--no-index")
    run(*pip, wheel, cwd=folder)  # before the others are seen, among which is this environment's own mecoq-faiss
    # Python reads no .pth files of a folder that stands in one: no editable install is found there.
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (Path(sysconfig.get_path("purelib", "venv", places)) / "others.pth").write_text("\n".join(others))
    return scripts


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    files = {
        (name / path.relative_to(ROOT / folder)).as_posix()
        for name, folder in ((Path(name), folder) for name, folder in PACKAGES.items())
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == files
    assert {f"{name}/py.typed" for name in PACKAGES} | {
        f"mecoq_faiss/comparison/{name}.html" for name in ("report", "duplicates")
    } <= packed


def test_every_module_is_imported_from_the_environment(scripts: Path, tmp_path: Path) -> None:
    code = f"""
import importlib, json, pkgutil
names = [name for package in {list(PACKAGES)} for name in [package, *(module.name for module in pkgutil.walk_packages(
    importlib.import_module(package).__path__, package + "."))]]
found = {{}}
for name in names:
    try:
        found[name] = importlib.import_module(name).__file__
    except ModuleNotFoundError as error:  # a program that bundles are taken into
        assert name.startswith("mecoq_faiss.integrations.") and "pip install 'mecoq-faiss[" in str(error), name
print(json.dumps(found))
"""
    found = json.loads(run(scripts / "python", "-c", code, cwd=tmp_path))
    assert len(found) > len(PACKAGES)
    for name, file in found.items():
        assert Path(file).is_relative_to(scripts.parent), f"{name} comes from {file}"


def test_the_whole_path_works_in_an_empty_folder(scripts: Path, tmp_path: Path) -> None:
    def command(*arguments: str) -> str:
        return run(scripts / "mecoq-faiss", *arguments, cwd=tmp_path)

    assert "export-index" in command("--help")
    command("train", "--data", "digits", "--out", "run", "--epochs", "2", "--backbone", "pixels", "--image-size", "8",
            "--bits", "32", "--views", "2")  # fmt: skip
    command("export-index", "run", "--data", "digits", "--out", "bundle")
    assert 0.1 < json.loads(command("evaluate", "bundle", "--queries", "digits", "--json"))["map"] <= 1
    queries = open_source("digits", "queries")
    assert isinstance(queries, ImageSource)
    queries.open(0).save(tmp_path / "query.png")
    printed = command("search", "bundle", "query.png", "-k", "3").splitlines()
    assert printed[0] == "query.png" and [line.split()[0] for line in printed[1:]] == ["1", "2", "3"]
    code = """
from mecoq_faiss.baselines import Baseline
from mecoq_faiss.jobs.compare import compare
compare("run", "digits", "digits", "report", settings=[Baseline("PQ", 4), Baseline("LSH", 4), Baseline("Flat")])
"""
    run(scripts / "python", "-c", code, cwd=tmp_path)
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert f"{report['methods'][0]['score']:.4f}" in page


@pytest.mark.slow
def test_without_torch_the_packages_of_the_guide_suffice(wheel: Path, tmp_path: Path) -> None:
    """As printed there, but for the wheel in the package's place; the others are downloaded."""
    train("digits", tmp_path / "run", ModelConfig(backbone="pixels", image_size=8), TrainConfig(epochs=2))
    export_index(tmp_path / "run", "digits", tmp_path / "bundle", onnx=True)
    queries = open_source("digits", "queries")
    assert isinstance(queries, ImageSource)
    queries.open(0).save(tmp_path / "query.png")
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    guide = (ROOT / "docs" / "guides" / "deploying.md").read_text(encoding="utf-8")
    lines = [line.split() for line in guide.splitlines() if line.startswith("pip install")]
    assert lines[0] == ["pip", "install", "--no-deps", "mecoq-faiss"] and len(lines) == 2
    for line in ([*lines[0][:3], str(wheel)], lines[1]):
        run(scripts / "python", "-m", *line, cwd=tmp_path)
    code = "import importlib.util as u; print([u.find_spec(name) for name in ('torch', 'torchvision', 'safetensors')])"
    assert run(scripts / "python", "-c", code, cwd=tmp_path).strip() == "[None, None, None]"
    call = ("search", tmp_path / "bundle", "query.png", "-k", "5")
    found = run(scripts / "mecoq-faiss", *call, "--runtime", "onnx", cwd=tmp_path)
    assert [hit.path for [hits] in [search(tmp_path / "bundle", tmp_path / "query.png", 5)] for hit in hits] == [
        line.split()[2] for line in found.splitlines()[1:]
    ]
    failed = subprocess.run([scripts / "mecoq-faiss", *call], cwd=tmp_path, capture_output=True, text=True)
    assert failed.stderr.startswith("Error: runtime='torch' needs PyTorch, and ") and failed.returncode == 1
