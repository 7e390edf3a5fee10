"""The lines by which a parent process follows the engine; `kt_cli.embedded.__main__` lists them."""

from __future__ import annotations

import json
import threading
from typing import TextIO

from kt_cli.errors import KtError


class Report:
    """Whole lines only, from any thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._progress = ""

    def listening(self, url: str) -> None:
        self._line(f"listening {url}")

    def progress(self, stage: str, fraction: float) -> None:
        """Says nothing where a percent has not passed."""
        line = f"progress {min(1.0, max(0.0, fraction)):.2f} {' '.join(stage.split())}"
        if line != self._progress:
            self._progress = line
            self._line(line)

    def ready(self, url: str) -> None:
        self._line(f"ready {url}")

    def note(self, text: str) -> None:
        self._line(f"note {' '.join(text.split())}")

    def error(self, text: str) -> None:
        self._line(f"error {' '.join(text.split())}")

    def failed(self, error: KtError) -> None:
        fields = {"what": error.what, "why": error.why, "fix": error.fix}
        self._line(f"failed {json.dumps(fields)}")

    def stopped(self) -> None:
        self._line("stopped")

    def _line(self, text: str) -> None:
        with self._lock:
            self._stream.write(f"kt-engine {text}\n")
            self._stream.flush()
