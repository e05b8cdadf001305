#!/usr/bin/env bash
# Sets up .venv and runs the tests. Arguments go to pytest.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh requirements-dev.txt
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
# Four parts, because TensorFlow keeps memory until its process ends.
python -m pytest tests/nets tests/losses tests/export
python -m pytest tests/eval
python -m pytest tests/training
python -m pytest --ignore=tests/{nets,losses,export,eval,training}
