"""Results: what they hold, how they are saved and drawn."""
