#!/bin/sh
# Makes one archive that installs Forewarn on a site without internet: images, binaries, settings,
# units, compose file, install script, checksums. `bundle.sh FOLDER` writes it there.
set -eu
cd "$(dirname "$0")/.."
out=${1:-out}
bin=${FOREWARN_BIN:-target/release}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name="forewarn-$version-$(uname -m)"

packaging/images.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root="$work/$name"
mkdir -p "$root/bin" "$root/config"
cp "$bin/forewarn-server" "$bin/forewarn-agent" "$root/bin/"
cp config/*.toml "$root/config/"
cp -r packaging/systemd packaging/compose.yaml packaging/install.sh LICENSE README.md "$root/"
echo "$version" >"$root/VERSION"
docker save -o "$root/images.tar" "forewarn-server:$version" "forewarn-agent:$version" \
    forewarn-server:latest forewarn-agent:latest
(cd "$root" && find . -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0 sha256sum >SHA256SUMS)

mkdir -p "$out"
# Owners and order do not depend on who made it.
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner -czf "$out/$name.tar.gz" "$name"
echo "$out/$name.tar.gz ($(du -h "$out/$name.tar.gz" | cut -f1))"
