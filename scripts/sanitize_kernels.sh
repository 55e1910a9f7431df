#!/usr/bin/env bash
# Runs the kernels' tests with the library built under AddressSanitizer and UndefinedBehaviorSanitizer: a read or write
# outside an array, a shift or an integer too large, ends the tests with a report.
#
#   bash scripts/sanitize_kernels.sh [pytest's words]      default: tests/unit/kernels/test_*_kernel.py and test_library.py
#
#   PYTHON=...                      which Python has this package and pytest (default: python)
#   CODELLAMA_SANITIZED_BUILD=DIR   where the library is built and kept for the next time (default: build/sanitized)
#
# Tests that start MindSpore are left out: it is not built for sanitizers. Needs g++ with its sanitizer libraries.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

python=${PYTHON:-python}
folder=${CODELLAMA_SANITIZED_BUILD:-build/sanitized}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
compiler=${CXX:-g++}
command -v "$compiler" >/dev/null || { echo "error: no $compiler. Fix: install it (Debian: apt-get install g++), or name one in CXX." >&2; exit 3; }
runtime=
for name in libasan.so libubsan.so libstdc++.so; do
    file=$("$compiler" -print-file-name=$name)
    [ "$file" != "$name" ] || { echo "error: $compiler has no $name. Fix: install its sanitizer libraries, or use g++." >&2; exit 3; }
    runtime+=${runtime:+:}$(readlink -f "$file")
done

"$python" mindformers_codellama/kernels/build.py --output "$folder/libcodellama_kernels.so" \
    --flags "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"

[ $# -gt 0 ] || set -- tests/unit/kernels/test_*_kernel.py tests/unit/kernels/test_library.py -q -m "not slow"
# Python keeps memory until the end and was built without the sanitizers, hence no search for leaks. A report ends the
# process and is written past Python: pytest must not hold back what is written that way, hence --capture=sys.
exec env CODELLAMA_SANITIZED=1 CODELLAMA_KERNEL_LIBRARY="$folder/libcodellama_kernels.so" \
    LD_PRELOAD="$runtime" ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:exitcode=99 UBSAN_OPTIONS=print_stacktrace=1 \
    "$python" -m pytest -p no:cacheprovider --capture=sys "$@"
