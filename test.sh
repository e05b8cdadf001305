#!/usr/bin/env bash
# Sets up .venv and runs the tests. Passes its arguments to pytest.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh requirements-dev.txt
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
# In four parts, because TensorFlow frees its memory only when its process ends.
python -m pytest tests/nets tests/losses tests/export
python -m pytest tests/eval
python -m pytest tests/training
python -m pytest --ignore=tests/{nets,losses,export,eval,training}
