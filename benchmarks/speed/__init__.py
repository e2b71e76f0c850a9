"""Speed and memory as ratios of two sides in one run."""
