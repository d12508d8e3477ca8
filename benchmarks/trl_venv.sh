#!/bin/sh
# Make $1, a virtual environment with the pinned TRL, with the uv of $2, a virtual environment of RLoop.
set -eu
target=$1
venv=$2
. deploy/indexes.sh
export UV_LINK_MODE=copy
"$venv/bin/uv" venv --quiet --python "$venv/bin/python" "$target"
# shellcheck disable=SC2086 # $torch_from is one flag or nothing
"$venv/bin/uv" pip install --quiet --python "$target/bin/python" --no-deps $torch_from -r requirements/trl.txt
