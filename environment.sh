# Sourced by the scripts next to it: makes .venv from the requirements file named in $1 and
# puts it on PATH. Installs only when that file, or one it includes, has changed.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
environment="$here/.venv"
# One stamp per requirements file: demo.sh needs less than test.sh. The files include one another.
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
            echo "Python 3.11 or newer is needed, found: $(python3 --version 2>&1)" >&2
            exit 1
        fi
        "$python" -m venv --clear "$environment" || exit 1
    fi
    echo "Installing $1 into .venv"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir -r "$here/$1" || exit 1
    echo "$wanted" >"$stamp"
fi
PATH="$environment/bin:$PATH"
# Nothing outside of the clone: Keras would make ~/.keras, matplotlib ~/.config/matplotlib.
export KERAS_HOME="$environment/keras" MPLCONFIGDIR="$environment/matplotlib"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
