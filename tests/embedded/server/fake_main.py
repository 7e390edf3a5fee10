"""`python -m kt_cli.embedded` with a fake engine, for tests of the process."""

import json
import os
import sys
import time
from pathlib import Path

from embedded.server.fake import FakeEngine, Script
from kt_cli.embedded import __main__ as entry
from kt_cli.errors import DoesNotFitError

SCRIPTS = {
    "plain": Script(),
    "endless": Script(
        reply=lambda _: ["x"] * 10_000, pause=0.01, context=100_000, kv_total=100_000
    ),
    "slow": Script(load_s=30.0),
    "dead": Script(dead=True),
    "stages": Script(load_s=0.01),
}


def load(path: Path, *, model_name: str, progress, **options: object) -> FakeEngine:
    if path.name == "huge":
        raise DoesNotFitError("It does not fit", "Too big", "Use another")
    if path.name == "broken":
        raise RuntimeError("bad weights")
    print(json.dumps({**options, "omp": os.environ.get("OMP_NUM_THREADS")}), flush=True)
    script = SCRIPTS[path.name]
    for layer in range(3):
        progress(f"loading layer {layer + 1}/3", (layer + 1) / 3)
        time.sleep(script.load_s)
    return FakeEngine(model_name, script)


if __name__ == "__main__":
    entry._exit(entry.main(sys.argv[1:], load=load))
