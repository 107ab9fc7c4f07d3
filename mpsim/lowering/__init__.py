"""Lowering: a plan, its workload and its topology, to what each rank does, and to a program."""
