#!/bin/sh
# A server and a simulated fleet on this machine, for a look at a site with some dozens of hosts: what `make demo`
# starts. A disk fills, a container leaks, another crashes, a log complains; what the server makes of it is in the
# console. Data are in a folder that is made anew each time. Ctrl-C stops both.
# Variables one may set: HOSTS (24), DAYS of history (3), FOREWARN_BIN, FOREWARN_DATA (data/demo).
set -eu
cd "$(dirname "$0")/.."
bin=${FOREWARN_BIN:-target/release}
data=${FOREWARN_DATA:-data/demo}
fleet=${FLEET:-$bin/examples/fleet}

umask 077
rm -rf "$data"
mkdir -p "$data"
server="" fleet_id="" stopping=""

stop() {
    [ -z "$stopping" ] || return 0
    stopping=yes
    for part in $fleet_id $server; do
        kill -TERM "$part" 2>/dev/null || continue
        wait "$part" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

setsid "$bin/forewarn-server" run --data-dir "$data" --local-agent-token "$data/agent-token" &
server=$!
waited=0
while [ ! -s "$data/agent-token" ]; do
    kill -0 "$server" 2>/dev/null || exit 1
    [ "$waited" -lt 300 ] || { echo "the server did not get ready within 30 s" >&2; exit 1; }
    waited=$((waited + 1))
    sleep 0.1
done
token=$("$bin/forewarn-server" token --data-dir "$data" --uses 1000 2>/dev/null | tail -n 1)
setsid "$fleet" live --server https://127.0.0.1:8441 --token "$token" --hosts "${HOSTS:-24}" --history-days "${DAYS:-3}" &
fleet_id=$!
while kill -0 "$server" 2>/dev/null && kill -0 "$fleet_id" 2>/dev/null; do
    sleep 0.5 &
    wait $! || true
done
