"""The program: streams of tasks, and the accounts of what became of them."""
