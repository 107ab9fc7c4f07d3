#!/usr/bin/env bash
# Trace every model of the zoo on this machine: bash workloads/trace_all.sh [NAME ...]; about twenty minutes on one core.
# Sizes are modest so that one core can do it: fewer tokens than usual for text, small images for the U-Net.
set -euo pipefail
cd "$(dirname "$0")/.."
suffix=${SUFFIX:-cpu}
declare -A options=(
  [mnist-mlp]="--batch 1024,2048,4096,8192 --tensor 1,2,4 --repeats 9"
  [lenet5]="--batch 64,128,256,512 --repeats 15"
  [llama]="--batch 1,2,4,8 --tensor 1,2 --set seq=64 --repeats 9"
  [t5-small]="--batch 1,2,4 --tensor 1,2 --set seq=64 --set target_seq=64 --repeats 5 --warmup 1"
  [unet]="--batch 1,2,4 --set image=128 --repeats 5 --warmup 1"
  [resnet50]="--batch 1,2,4 --repeats 5 --warmup 1"
  [vit-b16]="--batch 1,2,4 --tensor 1,2,4 --repeats 5 --warmup 1"
  [bert-base]="--batch 1,2,4 --tensor 1,2 --set seq=64 --repeats 5 --warmup 1"
  [gpt2]="--batch 1,2,4 --tensor 1,2,4 --set seq=64 --repeats 5 --warmup 1"
  [vgg16]="--batch 1,2,4 --repeats 7"
)
for name in ${@:-mnist-mlp lenet5 llama t5-small unet resnet50 vit-b16 bert-base gpt2 vgg16}; do
  # shellcheck disable=SC2086
  "${MPSIM:-mpsim}" trace "$name" ${options[$name]} -o "workloads/$name.$suffix.json"
done
