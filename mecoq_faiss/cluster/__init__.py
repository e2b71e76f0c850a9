"""The same jobs on Ray: encoding and building by many workers, training on many ranks, serving many shards."""
