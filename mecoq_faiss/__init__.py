"""Learned product quantization for FAISS image search: MeCoQ trained on unlabelled images, exported to FAISS.

The names below are imported when they are asked for: a part that needs no torch, such as `mecoq_faiss.index`, loads
none.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mecoq_faiss.bundle.encoder import load_encoder
    from mecoq_faiss.config import ModelConfig, TrainConfig
    from mecoq_faiss.jobs.encode import encode
    from mecoq_faiss.jobs.evaluate import evaluate
    from mecoq_faiss.jobs.export_index import export_index
    from mecoq_faiss.jobs.train import train
    from mecoq_faiss.model import MeCoQ
else:  # a type checker would take any name for given

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
        globals()[name] = value  # the next time it is there
        return value


__version__ = "0.2.0.dev0"
__all__ = ["MeCoQ", "ModelConfig", "TrainConfig", "encode", "evaluate", "export_index", "load_encoder", "train"]

_PLACES = {
    "MeCoQ": "model",
    "ModelConfig": "config",
    "TrainConfig": "config",
    "encode": "jobs.encode",
    "evaluate": "jobs.evaluate",
    "export_index": "jobs.export_index",
    "load_encoder": "bundle.encoder",
    "train": "jobs.train",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
