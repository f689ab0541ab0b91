"""Learning dynamics: what initial connectivity, the noise of SGD and local learning rules do to training."""
