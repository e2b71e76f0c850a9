"""Command line of mecoq-faiss."""
