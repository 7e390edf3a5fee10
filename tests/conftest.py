"""What all tests share: the same examples in every continuous-integration run."""

import os
import signal

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

os.environ["KT_MOE_CACHE"] = "off"  # tests leave nothing in anybody's cache

# A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
