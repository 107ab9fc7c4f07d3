"""Plans: who computes what, in which order."""
