"""Programs, and the lowering of a plan to one."""
