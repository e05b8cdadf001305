# Source this file with a name, such as mxnet. It installs requirements-$1.txt into .venv-$1, an environment
# with Python 3.11, if that file has changed. Without Python 3.11, it ends the calling script with exit code 0.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
environment=.venv-$1
stamp="$environment/.installed"
wanted=$(cksum <"requirements-$1.txt")

if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    python=
    for candidate in python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "Skipped the comparison with $1: Python 3.11 was not found"
        exit 0
    fi
    echo "Installing requirements-$1.txt into $environment"
    "$python" -m venv --clear "$environment" || exit 1
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir -r "requirements-$1.txt" || exit 1
    echo "$wanted" >"$stamp"
fi
