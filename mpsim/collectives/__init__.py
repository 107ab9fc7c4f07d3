"""What each collective puts on a network: kind × algorithm × ranks × routes."""
