"""`python -m kt_cli.embedded`: the embedded engine as a server process.

The port is opened first, so `/health` answers 503 while the model loads and a busy port fails at
once. What a parent process needs to know goes to stderr, one line each, always at the line's start:

    kt-engine listening URL              the port is open; URL tells the port that 0 became
    kt-engine progress FRACTION STAGE    0.00 to 1.00 and what is being done
    kt-engine note TEXT                  what is worth knowing of how the model was loaded
    kt-engine error TEXT                 what is not as it should be although the model is served
    kt-engine ready URL                  requests are answered
    kt-engine failed JSON                {"what": …, "why": …, "fix": …}; the process ends
    kt-engine stopped                    a clean end after SIGTERM or SIGINT, exit code 0

Exit codes are those of `kt_cli.errors`; a failed start is 1 unless its error says more.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kt_cli.core import isa
from kt_cli.core.engine_report import from_words
from kt_cli.embedded.api import Engine
from kt_cli.embedded.server.report import Report
from kt_cli.errors import AuthError, EnvironmentBroken, KtError

DEFAULT_KEY_VARIABLE = "KT_API_KEY"
LoadEngine = Callable[..., Engine]


def main(argv: Sequence[str] | None = None, load: LoadEngine | None = None) -> int:
    """`load` replaces the engine's own loader; it takes the same arguments."""
    args = _parser().parse_args(argv)
    report = Report(sys.stderr)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    _prepare_environment(args.threads)
    try:
        return _serve(args, report, load or _load_embedded)
    except KtError as error:
        report.failed(error)
        return error.exit_code


def _serve(args: argparse.Namespace, report: Report, load: LoadEngine) -> int:
    try:
        from kt_cli.embedded.server import State
        from kt_cli.embedded.server.defaults import read_defaults
        from kt_cli.embedded.server.listen import open_port, require_key
        from kt_cli.embedded.server.serve import Progress, Service
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    key = _api_key(args.api_key_env)
    require_key(args.host, key)
    sock = open_port(args.host, args.port)
    name = args.name or Path(args.model).name

    def load_engine(progress: Progress) -> Engine:
        options = _engine_options(args)
        engine = load(Path(args.model), model_name=name, progress=progress, **options)
        for note in engine.notes:
            report.note(note)
        for difference in engine.report.differences:
            report.error(f"differs from its plan: {difference}")
        return engine

    state = State(name, api_key=key, defaults=read_defaults(Path(args.model)))
    return Service(state, sock, load_engine, report).run()


def _load_embedded(path: Path, **options: Any) -> Engine:
    try:
        from kt_cli.embedded import engine
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    loaded: Engine = engine.load(path, **options)
    return loaded


def _missing(error: ModuleNotFoundError) -> KtError:
    return EnvironmentBroken(
        "the embedded engine is not installed completely",
        f"the Python module {error.name} is missing",
        "run `pip install 'kt-cli[embedded]'`",
    )


def _engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was given or has a default here; the engine decides the rest."""
    names = (
        "context",
        "max_batch",
        "threads",
        "device",
        "rules",
        "kv_tokens",
        "dtype",
        "experts_backend",
        "experts_format",
        "trust_remote_code",
        "packs",
        "packs_limit",
        "planned",
    )
    given = {name: getattr(args, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def _prepare_environment(threads: int) -> None:
    """OpenMP and torch read these once, so they are set before torch is imported.

    A passive wait leaves the cores to other threads between two parallel regions.
    """
    for name, value in isa.torch_environment(os.environ.get(isa.VARIABLE, "")).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _api_key(variable: str | None) -> str:
    """A variable that is named must hold a key; the default one may be absent."""
    key = os.environ.get(variable or DEFAULT_KEY_VARIABLE, "").strip()
    if variable and not key:
        raise AuthError(
            f"no API key in the environment variable {variable}",
            "the variable is empty or not set",
            f"set `{variable}`, or leave out `--api-key-env`",
        )
    return key


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kt_cli.embedded", description="Serve a model with the embedded engine"
    )
    add = parser.add_argument
    add("--model", required=True, help="folder of the model")
    add("--name", help="model name in the API (default: name of the folder)")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=30000, help="port, 0 for a free one (default: %(default)s)")
    add("--context", type=_positive, default=2048, help="longest request, tokens")
    add("--max-batch", type=_positive, default=8, help="requests answered at once")
    cores = len(os.sched_getaffinity(0))
    add("--threads", type=_positive, default=cores, help="CPU threads")
    add("--device", help="device of all but the experts: cpu, cuda, cuda:1")
    add("--kv-tokens", type=_positive, help="tokens the KV cache holds over all requests")
    add("--rules", type=Path, help="injection rules (YAML)")
    add("--dtype", help="compute type: auto, fp32, bf16")
    add("--experts-backend", help="expert operator: auto, kt_moe, torch")
    add("--experts-format", help="weights of the experts in kt_moe: bf16, int8, int4")
    add("--packs", type=Path, metavar="FOLDER", help="keep packed experts here for later starts")
    add("--packs-limit", type=_positive, metavar="BYTES", help="room for all packs together")
    add("--planned", type=from_words, metavar="NAME=VALUE,…", help="what the plan says is used")
    add("--api-key-env", metavar="VAR", help="environment variable with the API key")
    add("--trust-remote-code", action="store_true", help="allow Python code of the model")
    return parser


def _exit(code: int) -> None:
    """Ends the process although the engine's threads may still be inside a long computation."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _exit(main())
