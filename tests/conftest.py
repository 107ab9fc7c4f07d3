"""What every test shares: examples of hypothesis are the same each time, no test is timed, and Ctrl-C is heard."""

import signal

from hypothesis import settings

settings.register_profile("mpsim", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("mpsim")

# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
