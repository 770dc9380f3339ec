"""What every test relies on, however the suite was started."""

import signal

# A shell that starts the suite in the background lets it ignore SIGINT, and every child process would inherit that:
# the tests that interrupt real processes would then wait for something that cannot happen.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
