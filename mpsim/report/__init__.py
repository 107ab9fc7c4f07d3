"""Reports: what a study found, as one page that needs no network."""
