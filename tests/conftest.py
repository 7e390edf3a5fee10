"""What all tests share: the same examples in every continuous-integration run."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

os.environ["KT_MOE_CACHE"] = "off"  # tests leave nothing in anybody's cache
