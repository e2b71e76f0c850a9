"""Files written whole or not at all, locks, shards, HDF5 and checksums."""
