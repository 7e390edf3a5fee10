"""What all tests share: the same examples in every continuous-integration run."""

import os
import signal
import tempfile

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

os.environ["KT_MOE_CACHE"] = "off"  # tests leave nothing in anybody's cache
_CACHE = tempfile.TemporaryDirectory(prefix="kt-tests-hub-")
os.environ["HF_HUB_CACHE"] = _CACHE.name

# A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
