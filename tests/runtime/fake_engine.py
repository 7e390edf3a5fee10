"""A stand-in for an engine: an HTTP server that behaves and misbehaves as its flags say."""

from __future__ import annotations

import argparse
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Handler(http.server.BaseHTTPRequestHandler):
    ready = False
    metrics = ""

    def do_GET(self) -> None:
        if self.path == "/env":
            self.answer(200, os.environ.get("KT_API_KEY", "-"))
        elif self.path == "/say":
            say("as told")
            self.answer(200, "")
        elif self.path == "/metrics":
            self.answer(200, self.metrics)
        else:
            self.answer(200 if Handler.ready else 503, "")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        pass


def spawn(kind: str) -> None:
    """A grandchild that outlives its parent: plain, in a session of its own, or deaf to SIGTERM."""
    code = "import time; time.sleep(600)"
    if kind == "deaf":
        code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + code
    if kind == "daemon":
        code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {code!r}])"
    subprocess.Popen(
        [sys.executable, "-c", code, os.environ["KT_TEST_MARK"]], start_new_session=True
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ready-after", type=float, default=0.0)
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--spawn", action="append", default=[])
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--say", action="append", default=[])
    parser.add_argument("--garbage", action="store_true")
    parser.add_argument("--flood", type=int, default=0, help="lines")
    parser.add_argument("--die-after", type=float)
    parser.add_argument("--die-signal", type=int)
    parser.add_argument("--exit-code", type=int, default=0)
    args = parser.parse_args()
    if args.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for kind in args.spawn:
        spawn(kind)
    for fraction in (0.25, 0.5):
        say(f"kt-engine progress {fraction} loading layer")
        time.sleep(args.ready_after / 2)
    for text in args.say:
        say(text)
    if args.garbage:
        sys.stderr.buffer.write(b"caf\xe9 \xff\xfe\n")
        sys.stderr.buffer.flush()
    for number in range(args.flood):
        sys.stdout.write(f"line {number} {'x' * 200}\n")
    sys.stdout.flush()
    if not args.never_ready:
        Handler.metrics = "kt_requests_running 2\nkt_requests_waiting 1\n"
        Handler.ready = True
        say(f"kt-engine ready http://127.0.0.1:{args.port}")
    if args.die_after is not None:
        time.sleep(args.die_after)
        if args.die_signal:
            os.kill(os.getpid(), args.die_signal)
        os._exit(args.exit_code)
    threading.Event().wait()


main()
