"""Learned product quantization for FAISS image search: MeCoQ trained on unlabelled images, exported to FAISS.

The names below are imported when they are asked for: a part that needs no torch, such as `mecoq_faiss.index`, loads
none.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mecoq_faiss.runtime.missing import needing_torch

if TYPE_CHECKING:
    from mecoq_faiss.backbone.registry import register_backbone
    from mecoq_faiss.bundle.duplicates import Duplicate
    from mecoq_faiss.bundle.encoder import Encoder, load_encoder
    from mecoq_faiss.bundle.generation import Hit
    from mecoq_faiss.bundle.opened import Bundle, open_bundle
    from mecoq_faiss.bundle.proof import VerificationError
    from mecoq_faiss.bundle.torch_encoder import TorchEncoder
    from mecoq_faiss.config import ModelConfig, TrainConfig
    from mecoq_faiss.data.features import FeatureSource
    from mecoq_faiss.data.images import UnreadableImage
    from mecoq_faiss.data.sources import ImageSource, open_source
    from mecoq_faiss.jobs.add import add
    from mecoq_faiss.jobs.compare import compare
    from mecoq_faiss.jobs.dedup import dedup
    from mecoq_faiss.jobs.encode import encode
    from mecoq_faiss.jobs.evaluate import evaluate
    from mecoq_faiss.jobs.export_encoder import export_encoder
    from mecoq_faiss.jobs.export_index import export_index
    from mecoq_faiss.jobs.export_items import export_items
    from mecoq_faiss.jobs.merge import merge
    from mecoq_faiss.jobs.remove import remove
    from mecoq_faiss.jobs.search import search
    from mecoq_faiss.jobs.split import split
    from mecoq_faiss.jobs.train import train
    from mecoq_faiss.jobs.tune import tune
    from mecoq_faiss.jobs.update import update
    from mecoq_faiss.jobs.verify import verify
    from mecoq_faiss.model import MeCoQ
    from mecoq_faiss.storage.files import InUseError
    from mecoq_faiss.training.trainer import Interrupted, TrainingError
else:  # a type checker would take any name for given

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with needing_torch(f"{__name__}.{name}"):
            value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
        globals()[name] = value  # the next time it is there
        return value


__version__ = "0.2.0.dev0"
__all__ = [
    "Bundle",
    "Duplicate",
    "Encoder",
    "FeatureSource",
    "Hit",
    "ImageSource",
    "InUseError",
    "Interrupted",
    "MeCoQ",
    "ModelConfig",
    "TorchEncoder",
    "TrainConfig",
    "TrainingError",
    "UnreadableImage",
    "VerificationError",
    "add",
    "compare",
    "dedup",
    "encode",
    "evaluate",
    "export_encoder",
    "export_index",
    "export_items",
    "load_encoder",
    "merge",
    "open_bundle",
    "open_source",
    "register_backbone",
    "remove",
    "search",
    "split",
    "train",
    "tune",
    "update",
    "verify",
]

_PLACES = {
    "Bundle": "bundle.opened",
    "Duplicate": "bundle.duplicates",
    "Encoder": "bundle.encoder",
    "FeatureSource": "data.features",
    "Hit": "bundle.generation",
    "ImageSource": "data.sources",
    "InUseError": "storage.files",
    "Interrupted": "training.trainer",
    "MeCoQ": "model",
    "ModelConfig": "config",
    "TorchEncoder": "bundle.torch_encoder",
    "TrainConfig": "config",
    "TrainingError": "training.trainer",
    "UnreadableImage": "data.images",
    "VerificationError": "bundle.proof",
    "compare": "jobs.compare",
    "dedup": "jobs.dedup",
    "encode": "jobs.encode",
    "evaluate": "jobs.evaluate",
    "export_encoder": "jobs.export_encoder",
    "export_index": "jobs.export_index",
    "export_items": "jobs.export_items",
    "load_encoder": "bundle.encoder",
    "merge": "jobs.merge",
    "open_bundle": "bundle.opened",
    "open_source": "data.sources",
    "register_backbone": "backbone.registry",
    "search": "jobs.search",
    "split": "jobs.split",
    "train": "jobs.train",
    "add": "jobs.add",
    "remove": "jobs.remove",
    "update": "jobs.update",
    "verify": "jobs.verify",
    "tune": "jobs.tune",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
