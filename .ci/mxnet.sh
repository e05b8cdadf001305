#!/usr/bin/env bash
# Compares dataset/recordio.py with MXNet itself, in an environment of its own: MXNet needs
# NumPy < 1.24, which has wheels for Python 3.11 at most. Arguments: further folders to compare.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
environment=.venv-mxnet
stamp="$environment/.installed"
wanted=$(cksum <requirements-mxnet.txt)

if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    python=
    for candidate in python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "Skipped: the comparison with MXNet needs Python 3.11, and none was found"
        exit 0
    fi
    echo "Installing requirements-mxnet.txt into $environment"
    "$python" -m venv --clear "$environment" || exit 1
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir -r requirements-mxnet.txt || exit 1
    echo "$wanted" >"$stamp"
fi
# MXNet spells NumPy's types the old way on import; its warnings are of no use here.
"$environment/bin/python" -W ignore -m tests.mxnet_agreement "$@"
