#!/usr/bin/env bash
# Prints the path of a Vault for the lab: the `vault` on the PATH, else the real thing built as a Go module, once.
#
# usage: build-vault.sh [--look|--build]    `--look` builds nothing, and fails where there is none; `--build` does not look
#                                           at the PATH.
#
# The build is kept in ${GOLIATH_CACHE:-$HOME/.cache/goliath}/vault/<version>-<hash of its sources>/vault, takes some
# minutes the first time and needs Go 1.21 or newer, which fetches the version that go.mod asks for. Several runs at once
# make one build.
set -euo pipefail

if [ "${1:-}" != --build ] && command -v vault; then
    exit
fi

sources=$(cd "$(dirname "${BASH_SOURCE[0]}")/../tests/vault" && pwd)
version=$(sed -n 's|^[[:space:]]*github.com/hashicorp/vault v\([^ ]*\).*|\1|p' "$sources/go.mod")
hash=$(cat "$sources/go.mod" "$sources/go.sum" "$sources/main.go" | sha256sum | cut -c1-12)
cache=${GOLIATH_CACHE:-$HOME/.cache/goliath}/vault
target=$cache/$version-$hash

if [ -x "$target/vault" ]; then
    echo "$target/vault"
    exit
fi
[ "${1:-}" != --look ] || exit 1

if ! command -v go >/dev/null; then
    echo "build-vault: there is no vault and no go on the PATH: install HashiCorp Vault, or Go 1.21 or newer" >&2
    exit 1
fi

mkdir -p "$target"
exec 9>"$cache/.lock"
flock 9
if [ ! -x "$target/vault" ]; then
    echo "build-vault: building Vault $version; the first time this takes some minutes" >&2
    part=$target/.vault.$$
    trap 'rm -f "$part"' EXIT
    (cd "$sources" && GOTOOLCHAIN=auto CGO_ENABLED=0 go build -trimpath -buildvcs=false \
        -ldflags "-s -w" -o "$part" .) >&2
    mv "$part" "$target/vault"
fi
echo "$target/vault"
