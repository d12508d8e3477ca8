#!/bin/sh
# A Ray cluster of several fake nodes on this machine (deploy/ray/local.yaml), in the foreground until Ctrl-C.
#   RAY_AUTH_TOKEN_PATH   the token, made when it is missing (~/.ray/auth_token)
#   DASHBOARD_PORT        on 127.0.0.1 (8265)
# Ray's port 6379 must be free: the fake provider looks for the head there.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
bin=${BIN:-$here/../../.venv/bin}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
head=fffffffffffffffffffffffffffffffffffffffffffffffffff00000

refuse() { echo "rloop: $1" >&2; exit 2; }
[ -x "$bin/ray" ] || refuse "no ray in $bin; make setup, or BIN=DIRECTORY sh $0"
"$bin/python" -c 'import socket; socket.create_server(("", 6379))' 2>/dev/null ||
    refuse "port 6379 is taken, and the fake nodes look for their head there; end what holds it"

# Ray would make the file readable for everybody.
[ -s "$token" ] || (umask 077 && mkdir -p "$(dirname "$token")" && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$token")
chmod 600 "$token"

temp=$(mktemp -d /tmp/rloop-ray.XXXXXX)
end() {
    trap - EXIT INT TERM
    # The fake nodes are no children of this script; all of Ray's processes here carry the directory's name.
    pkill -TERM -f "$temp" && sleep 3
    pkill -KILL -f "$temp"
    rm -rf "$temp"
}
trap end EXIT
trap 'exit 130' INT TERM

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token" RAY_FAKE_CLUSTER=1
# Its second autoscaler: the first one tells nodes apart by their addresses, and here they share one.
export RAY_enable_autoscaler_v2=1 RAY_CLOUD_INSTANCE_ID=$head RAY_NODE_TYPE_NAME=ray.head.default
"$bin/ray" start --head --block --disable-usage-stats --temp-dir="$temp" --num-cpus=0 --object-store-memory=200000000 \
    --dashboard-host=127.0.0.1 --dashboard-port="${DASHBOARD_PORT:-8265}" --autoscaling-config="$here/local.yaml" &
wait $!
