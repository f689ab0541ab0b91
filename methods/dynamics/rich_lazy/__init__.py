"""How the initial connectivity decides between rich and lazy learning (2310.08513)."""
