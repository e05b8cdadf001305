#!/usr/bin/env bash
# Sets up .venv and builds the documentation site in ./site. Treats every warning as an error.
#   ./docs.sh
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh requirements-docs.txt
python -m sphinx -W --keep-going -n -q -c docs -d site/.doctrees . site
echo "site: $PWD/site/index.html"
