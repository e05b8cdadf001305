#!/usr/bin/env bash
# Sets up .venv and runs the benchmarks of benchmarks/README.md, which takes about 20 minutes on 2 cores.
#   ./bench.sh [NAME ...]        all benchmarks, or only those named
#   ./bench.sh gpu [FLAG ...]    the benchmark for GPUs, see docs/gpus.md
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh requirements-dev.txt
if [ "${1-}" = gpu ]; then
    source ./environment.sh requirements-gpu.txt
    shift
    exec python -m benchmarks.gpu "$@"
fi
python -m benchmarks "$@"
