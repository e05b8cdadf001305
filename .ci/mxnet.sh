#!/usr/bin/env bash
# Compares dataset/records/recordio.py with MXNet, in a separate environment: MXNet needs NumPy < 1.24, which
# has no wheels for Python versions after 3.11. Arguments: further folders to compare.
. "$(dirname "${BASH_SOURCE[0]}")/python311.sh" mxnet
# MXNet uses old names of NumPy's types, which causes warnings on import.
"$environment/bin/python" -W ignore -m tests.mxnet_agreement "$@"
