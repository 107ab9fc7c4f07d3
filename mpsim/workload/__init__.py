"""Workloads: what a step costs, and how that is measured."""
