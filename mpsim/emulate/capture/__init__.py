"""A model as pieces that run alone: its training step exported, cut into layers, and held against the model itself."""
