"""The folder an application gets: its files, its encoder, the encoding of sources, the proof that all fits."""
