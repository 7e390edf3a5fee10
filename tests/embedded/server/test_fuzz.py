"""No request, however wrong, gets a 5xx, another shape of error, or no answer at all.

`KT_FUZZ_REQUESTS` says how many, `KT_FUZZ_SEED` which; `KT_FUZZ_URL` names a running server without
a key that gets them in place of the stand-in.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import nullcontext

import httpx

from embedded.server import fuzz
from embedded.server.fake import Script
from embedded.server.running import serving

REQUESTS = int(os.environ.get("KT_FUZZ_REQUESTS", "1500"))
SEED = int(os.environ.get("KT_FUZZ_SEED", "1"))
URL = os.environ.get("KT_FUZZ_URL", "")
TIMEOUT_S = 60.0


def test_fuzzed_requests_get_answers_or_errors_of_the_api():
    with nullcontext() if URL else serving(Script(slots=16)) as server:
        url = httpx.URL(URL or server.url)
        model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        made = fuzz.Fuzz(SEED, model)
        seen: Counter[int] = Counter()
        faults = []
        for number in range(REQUESTS):
            case = made.case()
            for status, body in fuzz.answers(fuzz.send((url.host, url.port), case, TIMEOUT_S)):
                seen[status] += 1
                if fault := fuzz.wrong(status, body):
                    faults.append((number, fault, case.raw[:300], body[:200]))
        assert httpx.get(f"{url}/health").status_code == 200
    print(dict(sorted(seen.items())))
    assert not faults[:5], len(faults)
    assert seen[200] > REQUESTS / 10 and seen[400] > REQUESTS / 3
    if not URL:
        assert server.engine.stats().running + server.engine.stats().waiting == 0
