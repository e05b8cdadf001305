#!/usr/bin/env bash
# Sets up .venv and runs the tests. Arguments go to pytest.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh requirements-dev.txt
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
# Three parts, because TensorFlow keeps memory until its process ends.
nets=(tests/nets tests/losses tests/export)
training=(tests/training)
python -m pytest "${nets[@]}"
python -m pytest "${training[@]}"
python -m pytest "${nets[@]/#/--ignore=}" "${training[@]/#/--ignore=}"
