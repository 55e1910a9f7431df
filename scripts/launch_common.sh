# Sourced by the scripts above `codellama launch`: where the project and its Python are, and how a wrong call is answered.
# Expects `script` (the caller's path) and `usage` (first and last line of its usage text).

root=$(cd "$(dirname "$script")/.." && pwd)
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x "$root/.venv/bin/python" ]; then
    python=$root/.venv/bin/python
fi

fail() {
    echo "$(basename "$script"): $1" >&2
    sed -n "$usage s/^# \{0,1\}//p" "$script" >&2
    exit 2
}

explain() { # every comment line at the top, for --help
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script"
    exit 0
}

absolute() { # of a path that may not exist yet
    case $1 in
        /*) echo "$1" ;;
        *) echo "$PWD/$1" ;;
    esac
}

require_file() { # what it is, path
    [ -f "$2" ] || fail "$1 $2 does not exist."
}

require_count() { # what it is, number
    [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1 is a whole number of at least 1, got '$2'."
}

# Flags for `codellama launch` itself, separated by spaces: CODELLAMA_LAUNCH_FLAGS="--max-restarts 3 --master 10.0.0.1:8200"
read -r -a launch_flags <<<"${CODELLAMA_LAUNCH_FLAGS:-}"
