#!/bin/sh
# Resolve the pinned requirements again: requirements/{cpu,cpu-hashes,gpu}.txt. UPGRADE=1 moves to the newest versions.
# The outputs hold names, versions and hashes only: no index address, no path.
set -eu
venv=${VENV:-.venv}
uv="$venv/bin/uv"
[ "${UPGRADE:-}" ] && upgrade=--upgrade || upgrade=
. deploy/indexes.sh

# shellcheck disable=SC2086 # $upgrade and $torch_from are one flag or nothing
"$uv" pip compile pyproject.toml --extra cpu --extra dev --python-version 3.11 $upgrade $torch_from \
    --excludes requirements/excludes.txt --no-header --no-annotate --quiet -o requirements/cpu.txt

# One hash per package (the wheel that Python 3.11 on x86-64 Linux takes), for CI and images.
# pip must know where CPU builds of torch are (PIP_FIND_LINKS or an extra index in its configuration).
report=$(mktemp)
trap 'rm -f "$report"' EXIT
"$venv/bin/python" -m pip install --quiet --dry-run --no-deps --ignore-installed --report "$report" \
    -r requirements/cpu.txt
"$venv/bin/python" - "$report" >requirements/cpu-hashes.txt <<'PY'
import json
import sys

for item in sorted(json.load(open(sys.argv[1]))["install"], key=lambda item: item["metadata"]["name"].lower()):
    name, version = item["metadata"]["name"].lower().replace("_", "-"), item["metadata"]["version"]
    print(f"{name}=={version} --hash=sha256:{item['download_info']['archive_info']['hashes']['sha256']}")
PY

# The GPU lock takes the official vLLM of the same version, with the CUDA builds of torch and of what it needs.
unset UV_FIND_LINKS
# shellcheck disable=SC2086
"$uv" pip compile pyproject.toml --extra gpu --extra dev --python-version 3.11 $upgrade \
    --no-header --no-annotate --quiet -o requirements/gpu.txt

wc -l requirements/cpu.txt requirements/cpu-hashes.txt requirements/gpu.txt
