"""Networks that grow in width: mixtures of shared templates, and the baselines that they are held against."""
