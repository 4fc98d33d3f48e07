#!/bin/sh
# Rebuilds the bundled services from their source, byte for byte: `build.sh` writes the modules here, `build.sh --check`
# builds them elsewhere and compares. The bytes depend on the compiler, so it is named: Debian 12's clang 19 and wasi-libc,
#   apt-get install --no-install-recommends clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32
set -eu
cd "$(dirname "$0")"
CC=${CC:-clang-19}
SERVICES="tokenize count merge-rank"

case "${1:-}" in
    "") out=. ;;
    --check) out=$(mktemp -d); trap 'rm -rf "$out"' EXIT ;;
    *) echo "usage: $0 [--check]" >&2; exit 2 ;;
esac

for name in $SERVICES; do
    # The stack comes first in memory, so that its overflow is a trap and not another variable's new value.
    "$CC" --target=wasm32-wasi -std=c11 -O2 -Wall -Wextra -Werror -fno-ident -g0 \
        -ffile-prefix-map="$PWD"=. -Wl,--strip-all -Wl,--stack-first -Wl,-z,stack-size=65536 \
        -o "$out/$name.wasm" "$name.c"
    chmod 644 "$out/$name.wasm"
done

if [ "$out" != . ]; then
    for name in $SERVICES; do
        cmp "$out/$name.wasm" "$name.wasm"
    done
    echo "the committed modules are what their source builds"
fi
