"""Networks and their weights, folding, the caches of their features."""
