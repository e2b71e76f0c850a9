"""The paper's experiments and the search for the default recipe."""
