"""Ten billion images, on paper: rates measured here, simulations, and what follows from both, as docs/scale.md."""
