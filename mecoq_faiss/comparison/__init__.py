"""The learned codes beside baselines: data, contenders, figures, verdict, warnings, report."""

from mecoq_faiss.runtime.faiss_check import check_faiss

check_faiss()  # before anything fails in a way that does not name the mend
