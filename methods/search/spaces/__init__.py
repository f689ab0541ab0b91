"""Search spaces: the largest network of each, and which of its layers have a choice."""
