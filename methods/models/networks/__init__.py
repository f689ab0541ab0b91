"""Vision networks with their sizes as parameters, and the payload that carries one between steps."""
