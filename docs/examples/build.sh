#!/bin/sh
# Builds the programs of the examples, byte for byte: `build.sh` writes the modules beside their sources, `build.sh --check`
# builds them elsewhere and compares, data that is made included. `build.sh bake NAME FILE.csv` makes NAME.wasm here, the
# service that answers for an owner's own observations: the file becomes part of the program.
# The bytes depend on the compiler, so it is named: Debian 12's clang 19 and wasi-libc,
#   apt-get install --no-install-recommends clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32
set -eu
CC=${CC:-clang-19}
here=$(cd "$(dirname "$0")" && pwd)
PROGRAMS="species/join raster/archive raster/change raster/mosaic documents/to-text documents/summarise documents/digest"
OWNERS="north south"

compile() { # SOURCE MODULE [FLAG...]
    source=$1 module=$2
    shift 2
    # The stack comes first in memory, so that its overflow is a trap and not another variable's new value.
    (cd "$here" && "$CC" --target=wasm32-wasi -std=c2x -O2 -Wall -Wextra -Werror -fno-ident -g0 "$@" \
        -Wl,--strip-all -Wl,--stack-first -Wl,-z,stack-size=65536 -o "$module" "$source" \
        -lc-printscan-no-floating-point)
    chmod 644 "$module"
}

bake() { # NAME FILE MODULE
    compile species/observations.c "$3" "-DDATASET=\"$1\"" "-DDATA=\"$(basename "$2")\"" \
        "--embed-dir=$(cd "$(dirname "$2")" && pwd)"
}

build() { # DIRECTORY
    for program in $PROGRAMS; do
        compile "$program.c" "$1/$program.wasm"
    done
    for owner in $OWNERS; do
        bake "$owner" "$here/species/$owner.csv" "$1/species/$owner.wasm"
    done
}

make_data() { # DIRECTORY
    for owner in $OWNERS; do
        sh "$here/species/make-data.sh" "$owner" >"$1/species/$owner.csv"
    done
}

case "${1:-}" in
    "")
        make_data "$here"
        build "$here"
        ;;
    --check)
        fresh=$(mktemp -d)
        trap 'rm -rf "$fresh"' EXIT
        mkdir "$fresh/species" "$fresh/raster" "$fresh/documents"
        make_data "$fresh"
        build "$fresh"
        (cd "$fresh" && find . -type f) | while read -r file; do cmp "$fresh/$file" "$here/$file"; done
        echo "the committed modules and data are what their sources make"
        ;;
    bake)
        [ $# -eq 3 ] || { echo "usage: $0 bake NAME FILE.csv" >&2; exit 2; }
        case $2 in "" | *[!a-z0-9-]*) echo "NAME is made of a-z, 0-9 and -" >&2; exit 2 ;; esac
        [ -r "$3" ] || { echo "cannot read $3" >&2; exit 2; }
        bake "$2" "$3" "$PWD/$2.wasm"
        ;;
    *) echo "usage: $0 [--check | bake NAME FILE.csv]" >&2; exit 2 ;;
esac
