"""Codes on collections of many kinds: this method's, with one recipe for all, against every code that FAISS has."""
