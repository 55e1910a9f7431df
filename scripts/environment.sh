# Sourced by quickstart.sh and test.sh: make a virtual environment once, reuse it while setup.py stays the same, and
# compile the C++ kernels again when their sources changed.
#
#   make_environment DIR EXTRAS     creates DIR if needed, installs this checkout with EXTRAS ("" or "[test,lint]"),
#                                   and puts DIR/bin first on PATH (msrun and the scripts call plain `python`).

repository_root() {
    cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd
}

# MindSpore has wheels for these only; newest first because they start faster.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.10 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    echo "error: no Python 3.10, 3.11 or 3.12 found. Fix: install one, or point at it: PYTHON=/path/to/python3.11 bash $0" >&2
    return 1
}

make_environment() {
    local directory=$1 extras=$2 root python stamp wanted
    root=$(repository_root)
    stamp=$directory/.installed
    wanted="$extras $(cksum <"$root/setup.py") $root"
    if [ ! -x "$directory/bin/python" ]; then
        python=$(find_python) || return 1
        echo "== creating $directory with $("$python" --version)"
        "$python" -m venv "$directory" || {
            echo "error: could not create $directory. Fix: install the venv module (Debian: apt-get install python3-venv)." >&2
            return 1
        }
    fi
    PATH=$(cd "$directory/bin" && pwd):$PATH
    export PATH
    # fschat needs wavedrom, whose build fetches setuptools_scm without what version 10 of that needs
    export PIP_CONSTRAINT=${PIP_CONSTRAINT:-$root/scripts/build_constraints.txt}
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
        echo "== installing mindformers_codellama$extras and what it needs (MindSpore is about 0.8 GB; once)"
        python -m pip install --quiet --disable-pip-version-check -e "$root$extras" || {
            echo "error: installation failed; the lines above say why. Fix: check the package index and free disk (5 GB), then run again." >&2
            return 1
        }
        printf '%s' "$wanted" >"$stamp"
    fi
    build_kernels "$root"
}

# Brings the C++ kernels up to date with their sources; a moment when nothing changed. Without a compiler there is a
# warning, and plain MindSpore operators are used; a source that does not compile is an error.
build_kernels() {
    local code=0
    python "$1/mindformers_codellama/kernels/build.py" || code=$?
    [ "$code" -eq 0 ] || [ "$code" -eq 3 ]
}
