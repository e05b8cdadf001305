#!/usr/bin/env bash
# Sets up .venv, draws a small face set, trains on it, scores the result and recognises people
# in a drawn video call. Writes everything to ./demo.
#   ./demo.sh [STEPS]
# Run it again to continue after an interruption. Remove ./demo to start over.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh requirements.txt
steps=${1:-400}

echo "== Faces"
python -m dataset.synthetic --out demo/faces
echo "== Records"
python -m dataset.convert --config demo/faces/config.ini
echo "== Training"
# Small images, high learning rates, and a margin and scale that suit 200 identities, so that minutes are enough.
python -m train_centre --config demo/faces/config.ini --net_depth 32 --image_size 56 48 \
    --max_steps "$steps" --margin 0.1 --scale 16 --lr_values 0.05 0.01 --lr_steps 35 --warmup_steps 10 \
    --validate_interval 100 --save_interval 100 --summary_interval 20 --output demo
echo "== Scores"
model=$(ls -d demo/models/iter_* | sort -t_ -k2,2n | tail -n 1)
python -m eval.test_lfw --data demo/faces/lfw.np --model_path "$model" --output demo/lfw
python -m eval.test_ytf --config demo/faces/config.ini --model_path "$model" \
    --features demo/features --output demo/ytf
echo "== People in a video"
python -m eval.identify --gallery demo/faces/people --model_path "$model" --fpir 0.1 \
    --video demo/call.mp4 --output demo/identify demo/faces/call.mp4
echo
echo "faces:       $PWD/demo/faces/faces.png"
echo "model:       $PWD/$model"
echo "TensorBoard: $PWD/demo/summary   (.venv/bin/tensorboard --logdir demo/summary)"
echo "reports:     $PWD/demo/lfw/report/index.html"
echo "             $PWD/demo/ytf/report/index.html"
echo "people:      $PWD/demo/identify/index.html"
echo "             $PWD/demo/call.mp4"
