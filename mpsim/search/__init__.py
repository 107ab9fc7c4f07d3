"""Search: the best of all plans of a workload on a topology, and the proof that there is no better one."""
