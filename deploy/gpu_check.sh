#!/bin/sh
# Does RLoop work on this machine's GPUs? One table; a small model is made here, nothing is downloaded.
#   deploy/gpu_check.sh [--device cpu] [--only PART,PART] [--json FILE]
# Takes the environment in $VENV (.venv of this checkout), else the python3 on PATH, which is the right one in an image.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${VENV:-$root/.venv}/bin/python
[ -x "$python" ] || python=python3
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m deploy.gpu_check "$@"
