# shellcheck shell=sh disable=SC2034,SC2154 # $torch_from is for who sources this, $venv is theirs
# Sourced by install.sh and lock.sh, with $venv set: hands pip's configuration to uv, which does not read it.
pip_says() { "$venv/bin/python" -m pip config get "$1" 2>/dev/null | tr -s ' \n' ',' | sed 's/,$//' || true; }

# Folders or pages with wheels; a CPU build of torch may lie there. Without any, PyTorch's own CPU index is asked.
UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(pip_says global.find-links)}}
if [ -n "$UV_FIND_LINKS" ]; then
    export UV_FIND_LINKS
    torch_from=
else
    unset UV_FIND_LINKS
    torch_from="--torch-backend=cpu"
fi

# A mirror in place of the default package index.
index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(pip_says global.index-url)}}
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
