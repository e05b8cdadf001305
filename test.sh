#!/usr/bin/env bash
# Sets up .venv and runs the tests. Arguments go to pytest.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh requirements-dev.txt
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
# Two parts, because TensorFlow keeps memory until its process ends.
training=(tests/training tests/test_train_centre.py tests/test_train_triplet.py)
python -m pytest "${training[@]/#/--ignore=}"
python -m pytest "${training[@]}"
