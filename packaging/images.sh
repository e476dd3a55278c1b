#!/bin/sh
# Builds both FROM scratch images (or the one that is named: server, agent) out of target/release,
# with whatever docker the environment points at. Nothing is downloaded. Needs root, for owners and
# the agent's file capability.
set -eu
cd "$(dirname "$0")/.."
bin=${FOREWARN_BIN:-target/release}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
PATH="$PATH:/usr/sbin:/sbin"

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

image() { # image PART USER FOLDER...: the program, and empty folders that belong to its user
    part=$1 user=$2
    shift 2
    binary="$bin/forewarn-$part"
    [ -x "$binary" ] || { echo "$binary is missing: make build" >&2; exit 1; }
    # An image without a libc cannot start a dynamic binary: PT_INTERP names its loader.
    if head -c 4096 "$binary" | grep -aq 'ld-linux'; then
        echo "$binary is not static: make build" >&2
        exit 1
    fi
    root="$context/$part"
    mkdir "$root"
    install -m 0755 "$binary" "$root/"
    for folder in "$@"; do
        install -d -m 0700 -o "$user" -g "$user" "$root/$folder"
    done
    if [ "$part" = agent ]; then
        # The one right that the agent has, to read past permissions: see Dockerfile.agent.
        setcap cap_dac_read_search=ep "$root/forewarn-agent" || {
            echo "setcap failed: run as root, with the package libcap2-bin installed" >&2
            exit 1
        }
    fi
    tar -C "$root" --numeric-owner --xattrs --xattrs-include=security.capability -cf "$context/$part.tar" .
    rm -r "${root:?}"
    # The classic builder: BuildKit is a separate package on Debian, and nothing here needs it.
    DOCKER_BUILDKIT=0 docker build -q -f "packaging/Dockerfile.$part" \
        -t "forewarn-$part:$version" -t "forewarn-$part:latest" "$context"
    rm "$context/$part.tar"
}

[ $# -gt 0 ] || set -- server agent
for name in "$@"; do
    case $name in
    server) image server 10001 data enroll ;;
    agent) image agent 10002 data ;;
    *) echo "there is no image $name: server or agent" >&2 && exit 2 ;;
    esac
done
