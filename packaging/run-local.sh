#!/bin/sh
# One server and one agent of this host, for a first look: what `make run` starts. Data stays in
# ./data and a second run continues there. Ctrl-C stops both.
set -eu
cd "$(dirname "$0")/.."
bin=${FOREWARN_BIN:-target/release}
data=${FOREWARN_DATA:-data}

umask 077
mkdir -p "$data"
# The server writes a fresh one at each start; the agent needs it once.
rm -f "$data/agent-token"
server="" agent="" stopping=""

stop() {
    [ -z "$stopping" ] || return 0
    stopping=yes
    # The agent goes first, so that its last block still finds a server.
    for part in $agent $server; do
        kill -TERM "$part" 2>/dev/null || continue
        wait "$part" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Started in sessions of their own: Ctrl-C reaches this script alone, which stops them in order.
setsid "$bin/forewarn-server" run --data-dir "$data/server" --local-agent-token "$data/agent-token" &
server=$!

waited=0
while [ ! -s "$data/agent-token" ]; do
    kill -0 "$server" 2>/dev/null || exit 1
    [ "$waited" -lt 300 ] || { echo "the server did not get ready within 30 s" >&2; exit 1; }
    waited=$((waited + 1))
    sleep 0.1
done

setsid "$bin/forewarn-agent" run --data-dir "$data/agent" --enroll-file "$data/agent-token" \
    --server https://127.0.0.1:8441 &
agent=$!

# The server's end ends everything; an agent that ends (no such right, no such kernel) is told.
told=""
while kill -0 "$server" 2>/dev/null; do
    if [ -z "$told" ] && ! kill -0 "$agent" 2>/dev/null; then
        told=yes
        echo "the agent has ended, its last lines say why; the console stays up" >&2
    fi
    sleep 0.5 &
    wait $! || true
done
wait "$server"
