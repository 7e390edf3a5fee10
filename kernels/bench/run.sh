#!/usr/bin/env bash
# Build the kernels beside their Python package and time them: kernels/bench/run.sh [bench_experts.py options]
# Needs cmake, ninja, a C++17 compiler, and Python with numpy and nanobind. PYTHON names another interpreter.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
cmake -S "$root/kernels" -B "$root/build/bench" -G Ninja -DPython_EXECUTABLE="$(command -v "$python")" >/dev/null
cmake --build "$root/build/bench" >/dev/null
"$python" "$root/scripts/check_isa_symbols.py" --build-dir "$root/build/bench"
PYTHONPATH="$root/kernels/python${PYTHONPATH:+:$PYTHONPATH}" exec "$python" "$root/kernels/bench/bench_experts.py" "$@"
