"""What the YAML means: strict loading, typed specifications, expansion into keyed runs."""
