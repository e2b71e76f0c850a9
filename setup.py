"""Packaging. Tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "mecoq_faiss" / "__init__.py").read_text())[1]  # type: ignore[index]

EXTRAS = {
    "timm": ["timm>=1.0"],
    "onnx": ["onnxruntime>=1.20"],
    "onnx-export": ["onnxruntime>=1.20", "onnx>=1.17", "onnxscript>=0.5"],
    "report": ["jinja2>=3.1", "matplotlib>=3.8", "scikit-learn>=1.3"],
    "metadata": ["duckdb>=2.0"],
    "serve": [
        "fastapi>=0.165",  # limits bodies
        "uvicorn>=0.30",
        "httptools>=0.6",
        'uvloop>=0.19; sys_platform != "win32"',
        "python-multipart>=0.0.18",
        "prometheus-client>=0.20",
        "limits>=4",
        "pebble>=5",
    ],
    "cluster": ["ray[data,serve,train]>=2.60"],
    "hub": ["huggingface_hub>=1.0"],
    "langchain": ["langchain-community>=0.4"],
    "llamaindex": ["llama-index-core>=0.14", "llama-index-vector-stores-faiss>=0.7"],
    "lance": ["pylance>=14", "duckdb>=2.0"],
    "demo": ["scikit-learn>=1.3"],
    "tensorboard": ["tensorboard>=2.14"],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "setuptools>=70.1",  # builds the wheel that a test installs
        "scikit-learn>=1.3",
        "scipy>=1.11",
        "timm>=1.0",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "tensorboard>=2.14",
        "duckdb>=2.0",
        "onnxruntime>=1.20",
        "onnx>=1.17",
        "onnxscript>=0.5",
        "huggingface_hub>=1.0",
    ],
    "fuzz": ["atheris>=3.0"],  # Linux and macOS, Python 3.11 to 3.13
    "docs": ["sphinx>=8", "furo>=2024.8", "myst-parser>=4", "sphinx-click>=6"],
}
EXTRAS["test"] += [*EXTRAS["serve"], *EXTRAS["cluster"], "simpy>=4", "httpx>=0.27", "playwright>=1.45"]
EXTRAS["dev"] = EXTRAS["test"] + EXTRAS["docs"] + ["ruff>=0.6", "mypy>=1.11", "import-linter>=2.3", "pytest-cov>=5"]
EXTRAS["all"] = sorted({requirement for name, group in EXTRAS.items() if name != "fuzz" for requirement in group})

setup(
    name="mecoq-faiss",
    version=VERSION,
    description="Learned product quantization for FAISS image search (MeCoQ), from unlabelled images",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=[*find_packages(include=["mecoq_faiss*"]), "mecoq_faiss_cli"],
    package_dir={"mecoq_faiss": "mecoq_faiss", "mecoq_faiss_cli": "cli"},
    package_data={
        "mecoq_faiss": ["py.typed"],
        "mecoq_faiss.comparison": ["duplicates.html", "report.html"],
        "mecoq_faiss.service": ["page/*"],
        "mecoq_faiss_cli": ["py.typed"],
    },
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.19",
        "numpy>=1.26",
        "click>=8.1",
        "h5py>=3.10",
        "safetensors>=0.4",
        "pillow>=10.1",
        "tqdm>=4.66",
        "filelock>=3.20",
        # Meta's faiss-gpu wheel also runs where there is no GPU.
        'faiss-gpu>=1.15; sys_platform == "linux" and platform_machine == "x86_64"',
        'faiss-cpu>=1.9; sys_platform != "linux" or platform_machine != "x86_64"',
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["mecoq-faiss=mecoq_faiss_cli.main:run"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
