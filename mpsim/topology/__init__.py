"""Topologies: what computes and what carries bytes."""
