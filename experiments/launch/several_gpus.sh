#!/usr/bin/env bash
# A search on all GPUs of this machine, or on those of CUDA_VISIBLE_DEVICES: one worker for each.
#   usage: several_gpus.sh EXPERIMENT.yaml RUN_DIR [options of evoaim search ...]
set -euo pipefail
usage="usage: $0 EXPERIMENT.yaml RUN_DIR [options of evoaim search ...]"
experiment=${1:?$usage}
run=${2:?$usage}
shift 2

# torch and not nvidia-smi: it knows CUDA_VISIBLE_DEVICES, and AMD's devices.
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if ((gpus == 0)); then
  echo "$0: torch sees no GPU here; take local.sh" >&2
  exit 2
fi
exec "$(dirname "$0")/local.sh" "$experiment" "$run" --workers "$gpus" "$@"
