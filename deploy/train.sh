#!/bin/sh
# Start a run, or go on with it when it exists: what a scheduler repeats after a failure is always the same command.
#   deploy/train.sh NAME RECIPE [section.key=value | OVERLAY.yaml]...
# Runs are looked for where RLOOP_CLUSTER__RUNS_DIR says (runs).
set -eu
[ $# -ge 2 ] || { echo "usage: $0 NAME RECIPE [section.key=value | OVERLAY.yaml]..." >&2; exit 2; }
name=$1
shift
if [ -e "${RLOOP_CLUSTER__RUNS_DIR:-runs}/$name/config.yaml" ]; then
    exec rloop train "$@" --name "$name" --resume
fi
exec rloop train "$@" --name "$name"
