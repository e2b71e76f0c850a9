"""Rank quality: MAP, precision, recall, ties, relevance; numpy in, numpy out."""

from mecoq_faiss.evaluation.metrics import (
    FIRST_RANKS,
    average_precision,
    count_relevant,
    evaluate_neighbors,
    evaluate_search,
    is_relevant,
    mean_average_precision,
    neighbor_recall,
    precision_at,
    precision_recall_curve,
    recall_at_k,
)

__all__ = [
    "FIRST_RANKS",
    "average_precision",
    "count_relevant",
    "evaluate_neighbors",
    "evaluate_search",
    "is_relevant",
    "mean_average_precision",
    "neighbor_recall",
    "precision_at",
    "precision_recall_curve",
    "recall_at_k",
]
