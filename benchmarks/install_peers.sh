#!/usr/bin/env bash
# Makes a Python environment with the peers that benchmarks/compare.py measures beside this package.
#
#   bash benchmarks/install_peers.sh ENVIRONMENT [--torch]
#
# ENVIRONMENT is a folder that does not exist yet, or one this script made (then only what is missing is installed).
# llama-cpp-python is built from its source distribution for this very machine (10 to 30 minutes on two cores), so that
# llama.cpp may use every instruction the processor has. --torch adds torch (CPU) and transformers; leave it out when
# the environment of this package has them. PYTHON chooses the interpreter (default python3). Versions can be given
# as LLAMA_CPP_PYTHON, TORCH and TRANSFORMERS, for example LLAMA_CPP_PYTHON="==0.3.16".
set -euo pipefail

if [[ $# -lt 1 || "$1" == "-h" || "$1" == "--help" ]]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    [[ $# -ge 1 ]] && exit 0 || exit 2
fi
environment="$1"
with_torch=0
if [[ $# -ge 2 ]]; then
    if [[ "$2" != "--torch" ]]; then
        echo "install_peers.sh: unknown argument '$2'; allowed: ENVIRONMENT [--torch]" >&2
        exit 2
    fi
    with_torch=1
fi
for program in cmake c++; do
    command -v "$program" >/dev/null || { echo "install_peers.sh: $program is missing; llama.cpp cannot be built" >&2; exit 1; }
done

[[ -x "$environment/bin/python" ]] || "${PYTHON:-python3}" -m venv "$environment"
pip=("$environment/bin/python" -m pip)

# Release build, instructions of this machine, no multimodal extras. OpenMP, tiled products and weight repacking are
# llama.cpp's own defaults and stay on.
export CMAKE_ARGS="-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF"
export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}"
"${pip[@]}" install "numpy<3" gguf
"${pip[@]}" install --no-binary llama-cpp-python "llama-cpp-python${LLAMA_CPP_PYTHON:-}"
if [[ $with_torch -eq 1 ]]; then
    "${pip[@]}" install --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple "torch${TORCH:-}"
    "${pip[@]}" install "transformers${TRANSFORMERS:-}"
fi
"$environment/bin/python" - <<'PY'
import importlib.metadata as metadata

import llama_cpp

print("llama-cpp-python", llama_cpp.__version__, "gguf", metadata.version("gguf"))
print(llama_cpp.llama_print_system_info().decode())
PY
