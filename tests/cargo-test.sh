#!/bin/sh
# Runs cargo nextest where it is installed, else cargo test: the same tests, the same verdict.
set -eu
cd "$(dirname "$0")/.."
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --locked --no-fail-fast "$@"
fi
exec cargo test --locked --no-fail-fast "$@"
