"""What the project claims, measured: the paper's experiments, speed, and the demo."""
