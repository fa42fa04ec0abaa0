#!/usr/bin/env bash
# Makes the Python environment .venv in this folder and installs UnSeg in it, with the versions of constraints.txt.
#
#   bash install.sh                  everything: networks of torch, training, measuring, the tests
#   PROFILE=light bash install.sh    what protects and verifies, without torch
#
# Needs: python3 >= 3.10 with venv, and the network the first time (about 3 GB, mostly PyTorch; light: 93 MB).
# Takes: 2 to 5 minutes the first time (light: half a minute), a second when everything is there already.
# Leaves: .venv/ (its log of the installation: .venv/install.log). Nothing outside this folder changes.
# Settings: PROFILE=full (or light)  a light .venv becomes full; a full one stays full, whatever is asked for.
#           PYTHON=/path/to/python3  makes .venv; one made with another version is replaced.
# On Linux without a GPU, torch is its CPU build where the package index that pip is configured with serves one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

# Succeeds where $1 is a Python that can make .venv; else leaves the reason in $problem.
usable() {
    if ! command -v "$1" >/dev/null 2>&1; then
        problem="$1 is not there; install Python 3.10 or newer, or name one: PYTHON=/path/to/python3 bash install.sh"
    elif ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        problem="$1 is older than Python 3.10 or broken; name another: PYTHON=/path/to/python3 bash install.sh"
    elif ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        problem="$1 has no venv; install that module (on Debian and Ubuntu: apt-get install python3-venv)"
    else
        return 0
    fi
    return 1
}

find_python() {
    local candidate first_problem="" candidates=(python3 python3.13 python3.12 python3.11 python3.10)
    if [[ -n ${PYTHON:-} ]]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        if usable "$candidate"; then
            python=$candidate
            return
        fi
        first_problem=${first_problem:-$problem}
    done
    fail "$first_problem"
}

# What the environment depends on, in one line: the files that say what is installed, the interpreter, the folder.
fingerprint() {
    "$1" - <<'PY'
import hashlib, os, pathlib, sys
files = b"".join(pathlib.Path(name).read_bytes() for name in ("constraints.txt", "pyproject.toml", "install.sh"))
print(hashlib.sha256(files).hexdigest(), sys.version.split()[0], os.getcwd())
PY
}

version() {
    "$1" -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null
}

# pip with its output in the log. It compiles no Python: that takes a third of the time, on one core, and most of it is
# never imported; Python compiles what is, at its first import. Where it may not write what it compiles, it would do so at
# every import.
pip_logged() {
    local compile=--no-compile
    [[ -z ${PYTHONDONTWRITEBYTECODE:-} ]] || compile=--compile
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off $compile "$@" >>.venv/install.log 2>&1
}

# The same; a failure becomes one line.
pip_install() {
    if ! pip_logged "$@"; then
        local reason
        reason=$(grep -E '^ERROR' .venv/install.log | tail -n 1 || true)
        reason=${reason:-see the log}
        fail "pip failed (${reason#ERROR: }); check network and disk, run install.sh again (log: .venv/install.log)"
    fi
}

# What an earlier installation was: light, full, or nothing. One that left no word of it was full.
installed_profile() {
    if [[ -f .venv/profile ]]; then
        cat .venv/profile
    elif [[ -f .venv/installed ]]; then
        echo full
    fi
}

# Succeeds where .venv is what it should be; leaves its version, if it has one, in $installed_version.
up_to_date() {
    if [[ $(installed_profile) == full ]]; then
        profile=full
    fi
    installed_version=$(version .venv/bin/python || true)
    [[ -n $installed_version && ( -z ${PYTHON:-} || $(version "$PYTHON" || true) == "$installed_version" ) ]] &&
        [[ -f .venv/installed && $(cat .venv/installed) == "$(fingerprint .venv/bin/python)" ]] &&
        [[ $(installed_profile) == "$profile" ]]
}

# The version of a package in constraints.txt.
pinned() {
    sed -n "s/^$1==\([^ ;]*\).*/\1/p" constraints.txt | head -n 1
}

# CPU builds of torch, a tenth of the download, for machines without a GPU; nothing happens where no index has them.
install_cpu_torch() {
    if [[ $(uname -s) != Linux || -e /dev/nvidiactl || -e /dev/dxg || -e /dev/kfd ]]; then
        return
    fi
    pip_logged -c constraints.txt "torch==$(pinned torch)+cpu" "torchvision==$(pinned torchvision)+cpu" || true
}

profile=${PROFILE:-full}
case $profile in
    light | full) ;;
    *) fail "PROFILE=$profile: give light or full" ;;
esac
up_to_date && exit 0
# One at a time: jobs that start together after an update would tear .venv out of each other's hands. The lock is on the folder
# itself and leaves nothing; without flock (macOS), or on a file system without locks, nobody waits.
if command -v flock >/dev/null 2>&1 && exec 9<. && ! flock -n 9; then
    echo "install.sh: waiting for another installation into .venv"
    flock 9 || true
    up_to_date && exit 0
fi

find_python
if [[ $installed_version != "$(version "$python")" ]]; then
    echo "install.sh: making .venv with $(command -v "$python") ($(version "$python"))"
    "$python" -m venv --clear .venv || fail "$python could not make .venv; remove that folder and run install.sh again"
fi
rm -f .venv/installed
: >.venv/install.log
# pip and setuptools first, in their pinned versions: the project is then built with these, not with what is newest that day,
# and pips from before 2024 take minutes to tell that a package does not fit.
if [[ $profile == light ]]; then
    echo "install.sh: installing UnSeg into .venv; the first time this downloads about 93 MB"
    pip_install -c constraints.txt pip setuptools
    pip_install -c constraints.txt --no-build-isolation -e .
else
    echo "install.sh: installing UnSeg into .venv; the first time this downloads about 3 GB (PyTorch) and takes minutes"
    pip_install -c constraints.txt pip setuptools
    install_cpu_torch
    pip_install -c constraints.txt --no-build-isolation -e '.[compact,evaluate,formats,train,test]'
fi
echo "$profile" >.venv/profile
fingerprint .venv/bin/python >.venv/installed
echo "install.sh: done; 'source .venv/bin/activate' puts the command unseg on your path"
