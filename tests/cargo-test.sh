#!/bin/sh
# Runs cargo nextest where it is installed, else cargo test: the same tests, the same verdict.
set -eu
cd "$(dirname "$0")/.."

# Agents see the host's mounts below /host as `rslave`, which asks for a shared root. systemd makes
# it so; where nothing did, the tests get a mount namespace of their own in which it is. They get
# processes of their own with it: the mounts of a host are those of its first process.
if [ "$(id -u)" = 0 ] && [ "$(findmnt -n -o PROPAGATION / 2>/dev/null)" = private ]; then
    exec unshare --mount --propagation shared --pid --fork --kill-child --mount-proc -- "$0" "$@"
fi

if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --locked --no-fail-fast "$@"
fi
exec cargo test --locked --no-fail-fast "$@"
