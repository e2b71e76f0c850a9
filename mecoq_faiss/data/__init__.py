"""Where images and features come from: sources, decoding, protocols, views, loading on workers."""

from mecoq_faiss.data.features import FeatureSource
from mecoq_faiss.data.images import UnreadableImage
from mecoq_faiss.data.sources import ImageSource, open_source

__all__ = ["FeatureSource", "ImageSource", "UnreadableImage", "open_source"]
