"""SGD noise in the feature and the lazy regime (arXiv 2301.13703): ensembles of networks, a teacher perceptron."""
