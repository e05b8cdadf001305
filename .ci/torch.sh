#!/usr/bin/env bash
# Compares the nets of InsightFace, and their importers, with PyTorch in a separate environment: PyTorch writes
# nets and their embeddings, TensorFlow reads the nets and compares the embeddings.
. "$(dirname "${BASH_SOURCE[0]}")/python311.sh" torch
written=$environment/written
"$environment/bin/python" -m tests.torch_iresnet "$written" || exit 1
"$environment/bin/python" -m tests.torch_small_nets "$written" || exit 1
TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}" .venv/bin/python -m tests.torch_agreement "$written"
status=$?
rm -r "$written"
exit $status
