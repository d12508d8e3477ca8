#!/bin/sh
# Make $VENV with the pinned CPU requirements and this checkout, editable.
# The lock is installed with --no-deps: resolving afresh drags in CUDA builds of torchvision and torchaudio,
# which exit 0 at install time and break `import vllm` afterwards.
set -eu
python=${PYTHON:-python3}
venv=${VENV:-.venv}

"$python" - <<'PY' || exit 2
import sys
if sys.version_info < (3, 11):
    sys.exit(f"RLoop needs Python 3.11 or later, this is {sys.version.split()[0]}; run `make PYTHON=/path/to/python3.11 ...`")
PY
command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || {
    echo "RLoop needs a C compiler: apt-get install gcc" >&2; exit 2; }

echo "rloop setup: $venv with $(grep -c == requirements/cpu.txt) pinned packages (a few minutes the first time)"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv

# uv does not read pip's configuration: hand over a local wheel folder when pip has one, else use PyTorch's CPU index.
links=$("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)
links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$links}}
if [ -n "$links" ]; then
    UV_FIND_LINKS=$(echo "$links" | tr ' ' ','); export UV_FIND_LINKS
else
    set -- --torch-backend cpu
fi
UV_LINK_MODE=copy VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet --no-deps --compile-bytecode "$@" -r requirements/cpu.txt
VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation -e .
"$venv/bin/rloop" --version
