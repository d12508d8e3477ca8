#!/bin/sh
# A Ray cluster of several nodes on this machine (deploy/ray/local.yaml), in the foreground until Ctrl-C.
#   RAY_AUTH_TOKEN_PATH   the token, made when it is missing (~/.ray/auth_token)
#   RAY_PORT              (6379)
#   DASHBOARD_PORT        on 127.0.0.1 (8265)
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
bin=${BIN:-$here/../../.venv/bin}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
port=${RAY_PORT:-6379}

refuse() { echo "rloop: $1" >&2; exit 2; }
[ -x "$bin/ray" ] || refuse "no ray in $bin; make setup, or BIN=DIRECTORY sh $0"
"$bin/python" -c 'import socket, sys; socket.create_server(("", int(sys.argv[1])))' "$port" 2>/dev/null ||
    refuse "port $port is taken; end what holds it, or RAY_PORT=NUMBER sh $0"

# Ray would make the file readable for everybody.
umask 077
[ -s "$token" ] || (mkdir -p "$(dirname "$token")" && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$token")
chmod 600 "$token"

temp=$(mktemp -d /tmp/rloop-ray.XXXXXX)
end() {
    trap - EXIT INT TERM
    # All of Ray's processes here carry the directory's name.
    pkill -TERM -f "$temp" && sleep 3
    pkill -KILL -f "$temp"
    # Workers end when they miss their raylet, a moment later, and may write until then.
    for _ in 1 2 3 4 5; do if rm -rf "$temp" 2>/dev/null; then break; fi; sleep 1; done
}
trap end EXIT
trap 'exit 130' INT TERM

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token" RAY_JOB_STOP_WAIT_TIME_S=80
# Its second autoscaler: the first one tells nodes apart by their addresses, and here they share one.
export RAY_enable_autoscaler_v2=1 RAY_CLOUD_INSTANCE_ID=head RAY_NODE_TYPE_NAME=ray.head.default
export LOCAL_HEAD="127.0.0.1:$port" LOCAL_DIR="$temp" PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" # for local_nodes.py
# When this script is killed, the head ends too, and with it every node. (SIGTERM would make them drain for 30 s.)
"$bin/python" -c 'import os, signal, sys
from rollout.leash import end_with_parent
end_with_parent(signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])' \
    "$bin/ray" start --head --block --disable-usage-stats --port="$port" --temp-dir="$temp" --num-cpus=0 \
    --object-store-memory=200000000 --dashboard-host=127.0.0.1 --dashboard-port="${DASHBOARD_PORT:-8265}" \
    --dashboard-agent-listen-port=0 --autoscaling-config="$here/local.yaml" &
wait $!
