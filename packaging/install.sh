#!/bin/sh
# Installs Forewarn from the folder of an unpacked offline bundle. Nothing is downloaded.
set -eu
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
usage: ./install.sh WHAT

With Docker Engine:
  load                  check the bundle and load both images
  both                  a server on this host, and an agent of it
  server                a server alone
  agent URL TOKEN_FILE  an agent that pushes to a server, e.g. https://10.0.0.5:8441;
                        the console shows the token: put it into a file

With systemd, without Docker:
  systemd-server
  systemd-agent URL TOKEN_FILE

  remove                stop and remove the containers; data stays in the volumes
                        forewarn-server-data and forewarn-agent-data
TEXT
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

version=$(cat VERSION)

verify() {
    sha256sum --quiet -c SHA256SUMS || fail "the bundle is damaged: copy it again"
}

load() {
    verify
    command -v docker >/dev/null || fail "docker is missing: install Docker Engine 20.10 or later, or use systemd-server and systemd-agent"
    docker load -q -i images.tar
}

# What every container of ours is given: no right that it does not need, and a bounded log.
guarded="--read-only --cap-drop ALL --network host --restart unless-stopped --log-opt max-size=10m --log-opt max-file=3"

start_server() {
    docker rm -f forewarn-server >/dev/null 2>&1 || true
    # shellcheck disable=SC2086 # a list of options
    docker run -d --name forewarn-server $guarded --security-opt no-new-privileges:true --stop-timeout 30 \
        -v forewarn-server-data:/data -v forewarn-enroll:/enroll \
        "forewarn-server:$version" run --data-dir /data --local-agent-token /enroll/token
    echo "the console is at http://127.0.0.1:8440; the first start prints the password: docker logs forewarn-server"
}

start_agent() { # start_agent URL ENROLL_MOUNT
    docker rm -f forewarn-agent >/dev/null 2>&1 || true
    host="/:/host:ro,rslave"
    if [ "$(findmnt -n -o PROPAGATION / 2>/dev/null)" = private ]; then
        echo "/ of this host is a private mount: filesystems mounted later stay unseen until the agent is restarted"
        echo "(mount --make-rshared / before this script avoids that)"
        host="/:/host:ro"
    fi
    # The engine's socket belongs to a group; without that group the agent works from files alone.
    socket=$(docker_socket)
    group=""
    [ ! -S "$socket" ] || group="--group-add $(stat -c %g "$socket")"
    # Not root and no right but one, to read past permissions, which its image carries as a file
    # capability: so no-new-privileges stays off, and nothing that writes can be gained.
    # shellcheck disable=SC2086 # lists of options
    docker run -d --name forewarn-agent $guarded --cap-add DAC_READ_SEARCH $group \
        -v "$host" -v forewarn-agent-data:/data -v "$2" \
        "forewarn-agent:$version" run --data-dir /data --host-root /host --server "$1" --enroll-file /enroll/token
}

docker_socket() { # the socket that the docker command talks to
    case ${DOCKER_HOST:-} in
    unix://*) echo "${DOCKER_HOST#unix://}" ;;
    *) echo /var/run/docker.sock ;;
    esac
}

absolute() { # the token's absolute path, checked
    [ -s "$1" ] || fail "$1 is missing or empty: put the token from the console into it"
    echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"
}

# Replaces a running binary whole: a copy onto it would fail with "text file busy".
place() { # place MODE FROM TO
    install -D -m "$1" "$2" "$3.new"
    mv -f "$3.new" "$3"
}

unit() { # unit NAME
    verify
    command -v systemctl >/dev/null || fail "systemd is missing on this host"
    place 0755 "bin/forewarn-$1" "/usr/local/bin/forewarn-$1"
    # A settings file that somebody edited is never replaced.
    [ -e "/etc/forewarn/$1.toml" ] || place 0644 "config/$1.toml" "/etc/forewarn/$1.toml"
    place 0644 "systemd/forewarn-$1.service" "/etc/systemd/system/forewarn-$1.service"
    systemctl daemon-reload
}

what=${1:-}
case $what in
load)
    load
    ;;
both)
    load
    start_server
    start_agent https://127.0.0.1:8441 forewarn-enroll:/enroll:ro
    ;;
server)
    load
    start_server
    ;;
agent)
    [ $# = 3 ] || { usage >&2; exit 2; }
    token=$(absolute "$3")
    load
    start_agent "$2" "$token:/enroll/token:ro"
    ;;
systemd-server)
    unit server
    systemctl enable --now forewarn-server
    ;;
systemd-agent)
    [ $# = 3 ] || { usage >&2; exit 2; }
    token=$(absolute "$3")
    # It is not root; the group of the engine's socket lets it ask the engine, without it files alone tell.
    id forewarn-agent >/dev/null 2>&1 ||
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin forewarn-agent
    mkdir -p /etc/systemd/system/forewarn-agent.service.d
    socket=$(docker_socket)
    engine=/etc/systemd/system/forewarn-agent.service.d/engine.conf
    if [ -S "$socket" ]; then
        printf '[Service]\nSupplementaryGroups=%s\n' "$(stat -c %g "$socket")" >"$engine"
    else
        rm -f "$engine"
    fi
    unit agent
    place 0600 "$token" /etc/forewarn/agent-token
    # The one setting that has no default.
    sed -i "s|^urls = \[\]|urls = [\"$2\"]|" /etc/forewarn/agent.toml
    systemctl enable forewarn-agent
    systemctl restart forewarn-agent
    ;;
remove)
    docker rm -f forewarn-agent forewarn-server
    ;;
help | -h | --help)
    usage
    ;;
*)
    usage >&2
    exit 2
    ;;
esac
