"""Whole jobs: one module a command, named by its verb; no job imports another."""

from mecoq_faiss.runtime.faiss_check import check_faiss

check_faiss()  # before anything fails in a way that does not name the mend
