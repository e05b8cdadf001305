# The scripts next to this file source it with the name of a requirements file as $1. It creates .venv,
# installs that file, and puts .venv on PATH. It installs again only if a requirements file has changed.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
environment="$here/.venv"
# Each requirements file has its own stamp, because demo.sh needs fewer packages than test.sh. The stamp
# covers all requirements files, because they include one another.
stamp="$environment/.installed-$1"
wanted=$(cat "$here"/requirements*.txt | cksum)

if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    if ! "$environment/bin/python" -c "" 2>/dev/null; then
        python=
        for candidate in python3 python3.13 python3.12 python3.11; do
            if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                python=$candidate
                break
            fi
        done
        if [ -z "$python" ]; then
            echo "Expected Python 3.11 or newer, found: $(python3 --version 2>&1). Install it first." >&2
            exit 1
        fi
        "$python" -m venv --clear "$environment" || exit 1
    fi
    echo "Installing $1 into .venv"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir -r "$here/$1" || exit 1
    echo "$wanted" >"$stamp"
fi
PATH="$environment/bin:$PATH"
# Without these, Keras and matplotlib would write to ~/.keras and ~/.config/matplotlib.
export KERAS_HOME="$environment/keras" MPLCONFIGDIR="$environment/matplotlib"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
