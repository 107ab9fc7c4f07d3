"""The real thing: a split run on real processes, devices and links."""
