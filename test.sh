#!/usr/bin/env bash
# Sets up .venv and runs the tests. Arguments go to pytest.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh requirements-dev.txt
python -m pytest "$@"
