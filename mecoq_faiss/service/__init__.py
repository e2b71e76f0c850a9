"""A bundle over HTTP, and the page on which people search it (extra: serve)."""
