"""What makes a run safe: artifacts, atomic writes, resume, seeds, device slots, provenance."""
