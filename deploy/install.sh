#!/bin/sh
# Make $VENV with the pinned requirements and this checkout, editable. Safe to run again: it goes on where it stopped.
#   PYTHON        interpreter to build on (python3)
#   VENV          where to (.venv)
#   REQUIREMENTS  requirements/cpu.txt, requirements/gpu.txt, or requirements/cpu-hashes.txt on Python 3.11 and x86-64
#   PACKAGES_ONLY yes: leave the checkout out (an image's layer that outlives changes to the code)
# The lock is installed with --no-deps: resolving afresh drags in CUDA builds of torchvision and torchaudio,
# which exit 0 at install time and break `import vllm` afterwards.
set -eu
python=${PYTHON:-python3}
venv=${VENV:-.venv}
requirements=${REQUIREMENTS:-requirements/cpu.txt}

refuse() { echo "rloop setup: $1" >&2; exit 2; }
command -v "$python" >/dev/null || refuse "no $python on PATH; apt-get install python3 python3-venv, or make PYTHON=…"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    refuse "RLoop needs Python 3.11 or later, $python is $("$python" -V); run make PYTHON=/path/to/python3.11 …"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    refuse "$python cannot make virtual environments; apt-get install python3-venv"
command -v cc >/dev/null || command -v gcc >/dev/null || refuse "RLoop needs a C compiler; apt-get install gcc"
free_mb=$(df -Pm . | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge 5000 ] || [ -d "$venv" ] || refuse "the environment takes about 4 GB, $free_mb MB is free here; make room"

# An environment of another Python is made anew; a half-filled one is filled up.
version='import sys; print(*sys.version_info[:2])'
if [ "$("$venv/bin/python" -c "$version" 2>/dev/null)" != "$("$python" -c "$version")" ]; then
    "$python" -m venv --clear "$venv"
fi

echo "rloop setup: $venv with $(grep -c == "$requirements") pinned packages (a few minutes the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
. deploy/indexes.sh
torch_else=--torch-backend=cpu
case $requirements in
    *gpu*) torch_from='' torch_else='' ;; # CUDA builds lie where the other packages do
esac
export UV_LINK_MODE=copy
install() { "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps "$@"; }
# A wheel folder may lack torch for this Python: then PyTorch's index is asked after all.
# shellcheck disable=SC2086 # $torch_from is one flag or nothing
install --compile-bytecode $torch_from -r "$requirements" ||
    { [ -z "$torch_from" ] && [ -n "$torch_else" ] && install --compile-bytecode "$torch_else" -r "$requirements"; }
[ "${PACKAGES_ONLY:-no}" = no ] || exit 0
install --no-build-isolation -e .
"$venv/bin/rloop" --version
