"""Learned product quantization for FAISS image search: MeCoQ trained on unlabelled images, exported to FAISS."""

from .faisscheck import check_faiss

check_faiss()  # before anything fails in a way that does not name the mend

# `train`, `encode` and `evaluate` name both a function here and the module it is in: imported now, the function wins.
from .config import ModelConfig, TrainConfig  # noqa: E402
from .encode import encode  # noqa: E402
from .encoder import load_encoder  # noqa: E402
from .evaluate import evaluate  # noqa: E402
from .export import export_index  # noqa: E402
from .model import MeCoQ  # noqa: E402
from .train import train  # noqa: E402

__version__ = "0.2.0.dev0"
__all__ = ["MeCoQ", "ModelConfig", "TrainConfig", "encode", "evaluate", "export_index", "load_encoder", "train"]
