#!/usr/bin/env bash
# A search on several machines through Ray, which needs `pip install -e '.[ray]'` on all of them.
#   usage: ray_cluster.sh head [PORT]                 on the first machine; prints the address
#          ray_cluster.sh join ADDRESS                on every other machine
#          ray_cluster.sh search EXPERIMENT.yaml RUN_DIR [options of evoaim search ...]   on the first
#          ray_cluster.sh stop                        on every machine
# Ray runs code for whoever has its token, ~/.ray/auth_token, which `head` makes if there is none:
# copy that file to every machine. Ray encrypts nothing: private networks only.
set -euo pipefail
usage="usage: $0 head [PORT] | join ADDRESS | search EXPERIMENT.yaml RUN_DIR [...] | stop"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

case ${1:?$usage} in
  head)
    port=${2:-6379}
    ip=$(hostname -I | cut -d' ' -f1)
    ray get-auth-token --generate > /dev/null
    # The dashboard, too, would run jobs for whoever reaches it.
    ray start --head --node-ip-address="$ip" --port="$port" --include-dashboard=false
    echo "on the other machines: $0 join $ip:$port"
    ;;
  join)
    ray start --address="${2:?$usage}"
    ;;
  search)
    experiment=${2:?$usage}
    run=${3:?$usage}
    shift 3
    # One actor for every GPU of the cluster, or for every machine if it has none. RUN_DIR must be
    # on a disk that all machines share if the experiment has a calibration. Models and tasks must
    # be found under the same names on every machine: hub ids, or the same path on a shared disk.
    workers=$(python - <<'COUNT'
import ray

ray.init("auto", logging_level="error", log_to_driver=False)
alive = sum(node["Alive"] for node in ray.nodes())
print(int(ray.cluster_resources().get("GPU", 0)) or alive)
COUNT
    )
    exec "$(dirname "$0")/local.sh" "$experiment" "$run" --ray auto --workers "$workers" "$@"
    ;;
  stop)
    ray stop
    ;;
  *)
    echo "$usage" >&2
    exit 2
    ;;
esac
