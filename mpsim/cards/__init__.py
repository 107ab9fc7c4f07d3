"""How values show themselves in a notebook: a card of at most a screen, a picture, a table, why."""
