#!/usr/bin/env bash
# Bring the virtual environment VENV up to date with the locks beside this file; do nothing where it already is.
#   VENV    the environment's folder (default: .venv in the project)
#   PYTHON  the interpreter to make it with (default: the first of Python 3.10 to 3.12 found)
#   CPU=1   put PyTorch's CPU builds in place of the default ones; pip must be told where they are, see CONTRIBUTING.md
#   CLUSTER=1  add what work over several machines needs, see docs/cluster.md; it stays until the environment is made anew
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${VENV:-$here/../.venv}

fail() {
    echo "$1" >&2
    exit 1
}

fits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.10, 3.11 or 3.12: name one that is."
        echo "$PYTHON"
        return
    fi
    for name in python3 python3.12 python3.11 python3.10; do
        if fits "$name"; then
            echo "$name"
            return
        fi
    done
    fail "Found no Python 3.10, 3.11 or 3.12 on PATH: install one, or name it with 'make PYTHON=/path/to/python3 ...'."
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "The locks are for Linux on x86-64, and this is $(uname -sm)."
# `monailabel` by its path, without the environment activated.
install_launcher() {
    cmp -s "$here/monailabel" "$venv/bin/monailabel" || cp "$here/monailabel" "$venv/bin/monailabel"
}

# The locks are complete, so pip has nothing to resolve. Bytecode is compiled when a module is first imported.
install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-compile --no-deps "$@"
}
locked=(--require-hashes --only-binary :all:)

add_cluster() {
    local stamp
    stamp=$(sha256sum <"$here/cluster.lock")
    [ "${CLUSTER:-0}" = 1 ] && [ "$(cat "$venv/.cluster" 2>/dev/null)" != "$stamp" ] || return 0
    install "${locked[@]}" -r "$here/cluster.lock"
    "$venv/bin/python" -m pip check --disable-pip-version-check
    echo "$stamp" >"$venv/.cluster"
}

stamp="cpu=${CPU:-0} $(cat "$here"/{torch,packages,source}.lock | sha256sum)"
if [ "$(cat "$venv/.installed" 2>/dev/null)" = "$stamp" ] && fits "$venv/bin/python"; then
    install_launcher
    add_cluster
    exit 0
fi

python=$(find_python)
if [ -e "$venv" ] && [ ! -e "$venv/.installed" ]; then
    fail "$venv exists and is not an environment of this project's making: remove it, or name another folder with VENV."
fi
echo "Setting up $venv with $("$python" --version): a few minutes and about 8 GB (3.5 GB with CPU=1)."
# A virtual environment made in another folder, or by a Python that is gone, does not run.
"$python" -m venv --clear "$venv" ||
    fail "$python cannot make a virtual environment: on Debian and Ubuntu, install the package python3-venv."
: >"$venv/.installed"

if [ "${CPU:-0}" = 1 ]; then
    # torchvision too: the default build loads no library of torch's CPU build, and does not import.
    mapfile -t builds < <(sed -nE 's/^(torch|torchvision)==([0-9.]+).*/\1==\2+cpu/p' "$here/torch.lock")
    install "${builds[@]}" ||
        fail "pip found no ${builds[*]}: name PyTorch's CPU index in PIP_EXTRA_INDEX_URL, or a folder in PIP_FIND_LINKS."
    install "${locked[@]}" -r "$here/packages.lock"
else
    install "${locked[@]}" -r "$here/torch.lock" -r "$here/packages.lock"
fi
# Built with what was just installed: in an isolated build sam2 would download a second torch.
SAM2_BUILD_CUDA=0 install --require-hashes --no-build-isolation --use-pep517 -r "$here/source.lock"
"$venv/bin/python" -m pip check --disable-pip-version-check
install_launcher
echo "$stamp" >"$venv/.installed"
add_cluster
