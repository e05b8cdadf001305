#!/usr/bin/env bash
# Sets up .venv and runs the benchmarks of benchmarks/README.md: about 20 minutes on 2 cores.
#   ./bench.sh [NAME ...]
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh requirements-dev.txt
python -m benchmarks "$@"
