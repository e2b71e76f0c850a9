"""A bundle in the programs people use: one file each, which imports its library."""
