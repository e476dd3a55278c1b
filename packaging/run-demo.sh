#!/bin/sh
# A server and a simulated fleet on this machine, for a look at a site with some dozens of hosts: what `make demo`
# starts. A disk fills, a container leaks, another crashes, a log complains; what the server makes of it is in the
# console. Data are in a folder that is made anew each time. Ctrl-C stops both.
# Variables one may set: HOSTS (24), DAYS of history (3), FOREWARN_BIN, FOREWARN_DATA (data/demo).
cd "$(dirname "$0")/.." || exit 1
. packaging/with-server.sh
data=${FOREWARN_DATA:-data/demo}

rm -rf "$data"
mkdir -p "$data"
# The history is there at once: nobody wants to wait five minutes for what it says.
printf '[judge]\nforecast_every_ms = 60000\n' >"$data/server.toml"
start_server "$data" "$data/agent-token" --config "$data/server.toml"
token=$("$bin/forewarn-server" token --data-dir "$data" --uses 1000 2>/dev/null | tail -n 1)
start_part "${FLEET:-$bin/examples/fleet}" live --server https://127.0.0.1:8441 --token "$token" \
    --hosts "${HOSTS:-24}" --history-days "${DAYS:-3}"
hold "the simulated fleet has ended, its last lines say why; the console stays up"
