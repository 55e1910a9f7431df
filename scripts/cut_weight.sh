#!/usr/bin/env bash
# Cuts a Hugging Face directory (or any checkpoint) into N tensor-parallel parts.
#
#   bash cut_weight.sh --float N [more flags of `codellama shard`]
#
# Write the two paths below, or give them in the environment: input_dir=... output_dir=... bash cut_weight.sh --float 2
# q, k, v, gate and up are cut by rows, o and down by columns; norms stay whole, and so do embedding and head unless
# --cut-vocabulary is given. Parts get rank_0 ... rank_N-1 in output_dir, with the tokenizer and a manifest beside them.
input_dir=${input_dir:-./CodeLlama-34b-hf}
output_dir=${output_dir:-./CodeLlama-34b-parallel}

set -euo pipefail

fail() {
    echo "cut_weight.sh: $1" >&2
    exit 2
}

case ${1:-} in
    -h | --help)
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --float) ;;
    --quant) fail "--quant: packed weights (codellama quantize) run in one process and are not cut over ranks. Cut the floating-point weights: --float N." ;;
    *) fail "expected --float N, got: ${*:-nothing}." ;;
esac
parts=${2:-}
case $parts in
    '' | *[!0-9]* | 0*) fail "--float needs the number of parts, at least 1; got: ${parts:-nothing}." ;;
esac
shift 2
[ -e "$input_dir" ] || fail "input_dir=$input_dir does not exist. Write it at the top of this file, or give it in the environment."
exec codellama shard "$input_dir" "$output_dir" --layout "1x${parts}x1" "$@"
