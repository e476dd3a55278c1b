#!/bin/sh
# Builds both FROM scratch images out of target/release, with whatever docker the environment
# points at. Nothing is downloaded.
set -eu
cd "$(dirname "$0")/.."
bin=${FOREWARN_BIN:-target/release}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir "$context/data"

for part in server agent; do
    binary="$bin/forewarn-$part"
    [ -x "$binary" ] || { echo "$binary is missing: make build" >&2; exit 1; }
    # An image without a libc cannot start a dynamic binary: PT_INTERP names its loader.
    if head -c 4096 "$binary" | grep -aq 'ld-linux'; then
        echo "$binary is not static: make build" >&2
        exit 1
    fi
    cp "$binary" "$context/forewarn-$part"
    # The classic builder: BuildKit is a separate package on Debian, and nothing here needs it.
    DOCKER_BUILDKIT=0 docker build -q -f "packaging/Dockerfile.$part" \
        -t "forewarn-$part:$version" -t "forewarn-$part:latest" "$context"
    rm "$context/forewarn-$part"
done
