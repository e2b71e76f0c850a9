"""Training: the objective, its loop, pairs of views, what precedes the first step, the run folder."""
