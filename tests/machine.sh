#!/bin/sh
# Makes sure that the parts which the tests run against are on this machine. On Debian as root it
# installs what is missing and says which; elsewhere it says exactly what to install and fails.
set -eu

missing=""
need() { # need PACKAGE TEST...: PACKAGE is missing unless the test command succeeds
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
command_at() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1"; }
installed() { dpkg-query -W -f '${Status}' "$1" | grep -q 'install ok installed'; }

need docker.io command_at dockerd
need docker-cli command_at docker
need iptables command_at iptables
need mariadb-server command_at mariadbd
need galera-4 test -e /usr/lib/galera/libgalera_smm.so
need rsync command_at rsync
need chromium command_at chromium
need busybox-static test -x /bin/busybox
need iproute2 command_at ip
need e2fsprogs command_at mkfs.ext4
need sqlite3 command_at sqlite3
need curl command_at curl
need podman command_at podman
need tinyproxy-bin command_at tinyproxy
need libcap2-bin command_at setcap
need util-linux command_at setpriv
if command_at dpkg-query >/dev/null; then
    need busybox-static installed busybox-static
    need fonts-noto-cjk installed fonts-noto-cjk
fi
# Debian 12 ships the docker command in docker.io itself; later releases split it off.
if command_at apt-cache >/dev/null && ! apt-cache show docker-cli >/dev/null 2>&1; then
    missing=$(echo "$missing" | sed 's/docker-cli/docker.io/')
fi
missing=$(echo "$missing" | tr ' ' '\n' | sort -u | tr '\n' ' ' | sed 's/^ *//; s/ *$//')

for tool in cargo rustc node npm; do
    if ! command_at "$tool" >/dev/null; then
        echo "the tests need $tool: install Rust 1.95 (rustup) and Node 20 or later, then run again" >&2
        exit 1
    fi
done

if [ -n "$missing" ]; then
    if [ -f /etc/debian_version ] && [ "$(id -u)" = 0 ]; then
        echo "installing for the tests: $missing"
        export DEBIAN_FRONTEND=noninteractive
        # Nothing that we install may start a service of its own: the tests start theirs.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
            trap 'rm -f "$policy"' EXIT
        fi
        apt-get update -q
        # shellcheck disable=SC2086 # a list of package names
        apt-get install -q -y --no-install-recommends $missing
    else
        echo "the tests need these Debian packages (or their like): $missing" >&2
        echo "install them with: sudo apt-get install --no-install-recommends $missing" >&2
        exit 1
    fi
fi

if [ "$(id -u)" != 0 ]; then
    echo "the tests start a container engine, network namespaces and a small filesystem: run them as root" >&2
    exit 1
fi
