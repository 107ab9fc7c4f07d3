"""Replay a program in SimPy."""
