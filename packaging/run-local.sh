#!/bin/sh
# One server and one agent of this host, for a first look: what `make run` starts. Data stays in
# ./data and a second run continues there. Ctrl-C stops both.
cd "$(dirname "$0")/.." || exit 1
. packaging/with-server.sh
data=${FOREWARN_DATA:-data}

mkdir -p "$data"
start_server "$data/server" "$data/agent-token"
start_part "$bin/forewarn-agent" run --data-dir "$data/agent" --enroll-file "$data/agent-token" \
    --server https://127.0.0.1:8441
hold "the agent has ended, its last lines say why; the console stays up"
