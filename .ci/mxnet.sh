#!/usr/bin/env bash
# Compares dataset/records/recordio.py with MXNet itself, in an environment of its own: MXNet needs
# NumPy < 1.24, which has wheels for Python 3.11 at most. Arguments: further folders to compare.
. "$(dirname "${BASH_SOURCE[0]}")/python311.sh" mxnet
# MXNet spells NumPy's types the old way on import; its warnings are of no use here.
"$environment/bin/python" -W ignore -m tests.mxnet_agreement "$@"
