#!/usr/bin/env bash
# The recipe of docs/cluster.md on one machine: three hosts played by namespaces of Linux (root needed), each with a
# network, a working folder and a home of its own, blind to the client's folder; prices in an S3 bucket, which moto's
# server plays; the run in a folder that all share.
#
#     sudo PYTHON=.venv/bin/python examples/cluster.sh [FOLDER]
#
# Ends well when the cluster's run has the hash of a local one.
set -euo pipefail

python=$(realpath -s "${PYTHON:-python3}")
folder=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$folder"/{client,h1,h2,h3,shared}
pids=()

on() { # on HOST COMMAND... &: its own name, network, working folder, home; the client's folder is another one there
    local host=$1
    shift
    # shellcheck disable=SC2016 # the inner shell expands them
    exec ip netns exec "atc-$host" unshare --uts sh -c 'hostname "$0" && mount -t tmpfs none "$1" && shift && exec "$@"' \
        "$host" "$folder/client" env -C "$folder/$host" HOME="$folder/$host" NUMBA_CACHE_DIR="$folder/$host/numba" \
        OMP_NUM_THREADS=1 BLOSC_NTHREADS=1 "$@"
}

clean() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait || true
    for n in 1 2 3; do
        ip link del "atc-v$n" 2>/dev/null || true
        ip netns del "atc-h$n" 2>/dev/null || true
    done
    ip link del atc-bridge 2>/dev/null || true
}
trap clean EXIT

ip link add atc-bridge type bridge
ip addr add 10.77.0.254/24 dev atc-bridge # this machine, the client
ip link set atc-bridge up
for n in 1 2 3; do
    ip netns add "atc-h$n"
    ip link add "atc-v$n" type veth peer name eth0 netns "atc-h$n"
    ip link set "atc-v$n" master atc-bridge up
    ip -n "atc-h$n" addr add "10.77.0.$n/24" dev eth0
    ip -n "atc-h$n" link set eth0 up
    ip -n "atc-h$n" link set lo up
done

export AWS_ACCESS_KEY_ID=of-nobody AWS_SECRET_ACCESS_KEY=of-nobody AWS_DEFAULT_REGION=us-east-1
export AWS_ENDPOINT_URL=http://10.77.0.254:5077
"$python" -m moto.server --host 10.77.0.254 --port 5077 >"$folder/moto.log" 2>&1 &
pids+=($!)

on h1 "$python" -m dask scheduler --host 10.77.0.1 --port 8786 --dashboard-address :8787 >"$folder/h1.log" 2>&1 &
pids+=($!)
for n in 2 3; do
    on "h$n" "$python" -m dask worker tcp://10.77.0.1:8786 --host "10.77.0.$n" --name "h$n" \
        --nworkers 1 --nthreads 1 --memory-limit 1GB >"$folder/h$n.log" 2>&1 &
    pids+=($!)
done

cd "$folder/client"
atc() {
    echo "\$ atc-backtest $*"
    "$python" -m atc_backtest "$@"
}
"$python" - <<'END'
import time, boto3
for attempt in range(100):
    try:
        boto3.client("s3").create_bucket(Bucket="prices")
        break
    except Exception:
        time.sleep(0.2)
END
atc store synth prices.zarr --symbols "${SYMBOLS:-256}" --bars "${BARS:-20000}" --seed 1 --bar 1m --fields close --overwrite
atc store copy prices.zarr s3://prices/prices.zarr
atc backtest prices.zarr --out "$folder/client/local" --overwrite | tee local.txt
atc backtest s3://prices/prices.zarr --out "$folder/shared/run" --overwrite --scheduler tcp://10.77.0.1:8786 | tee cluster.txt

echo "# refused before any work: a store, and a run's folder, that the workers do not see"
! atc backtest prices.zarr --out "$folder/shared/refused" --overwrite --scheduler tcp://10.77.0.1:8786
! atc backtest s3://prices/prices.zarr --out "$folder/client/refused" --overwrite --scheduler tcp://10.77.0.1:8786

atc verify "$folder/shared/run" --sample 0.1 --scheduler tcp://10.77.0.1:8786
diff <(grep ^hash: local.txt) <(grep ^hash: cluster.txt) && echo "the same hash"
