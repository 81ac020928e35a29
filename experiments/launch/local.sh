#!/usr/bin/env bash
# A search on this machine: on its GPU if there is one, else on the CPU.
#   usage: local.sh EXPERIMENT.yaml RUN_DIR [options of evoaim search ...]
set -euo pipefail
usage="usage: $0 EXPERIMENT.yaml RUN_DIR [options of evoaim search ...]"
experiment=${1:?$usage}
run=${2:?$usage}
shift 2

# A long search should not end with the terminal; nor with one crash, since what is recorded is not
# run again. 0: done. 2: the experiment is wrong. 130: somebody pressed Ctrl-C. Nothing else is final.
trap '' HUP
for attempt in 1 2 3; do
  status=0
  evoaim search "$experiment" --run-dir "$run" "$@" || status=$?
  case $status in
    0 | 2 | 130) exit "$status" ;;
  esac
  echo "$0: evoaim ended with status $status (attempt $attempt of 3)" >&2
done
exit "$status"
