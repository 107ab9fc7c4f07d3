"""What every test shares: examples of hypothesis are the same each time, and no test is timed."""

from hypothesis import settings

settings.register_profile("mpsim", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("mpsim")
