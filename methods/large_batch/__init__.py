"""Large-batch training: ghost batch normalisation, learning-rate rules, diffusion of the weights."""
