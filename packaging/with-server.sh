# Sourced by run-local.sh and run-demo.sh: a server in the background that is stopped after the part that talks to it.
# Sets `bin`; `start_server <data dir> <token file> [<option> …]` returns when the token is there, `start_part
# <command …>` starts the other part, `hold` waits as long as the server runs. $server and $part are their process ids.
set -eu
bin=${FOREWARN_BIN:-target/release}
server="" part="" stopping=""
umask 077

stop() {
    [ -z "$stopping" ] || return 0
    stopping=yes
    # The part goes first, so that its last block still finds a server.
    for one in $part $server; do
        kill -TERM "$one" 2>/dev/null || continue
        wait "$one" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Started in sessions of their own: Ctrl-C reaches the script alone, which stops them in order.
start_server() {
    folder=$1 token_file=$2
    shift 2
    # The server writes a fresh token at each start.
    rm -f "$token_file"
    setsid "$bin/forewarn-server" run --data-dir "$folder" --local-agent-token "$token_file" "$@" &
    server=$!
    waited=0
    while [ ! -s "$token_file" ]; do
        kill -0 "$server" 2>/dev/null || exit 1
        [ "$waited" -lt 300 ] || { echo "the server did not get ready within 30 s" >&2; exit 1; }
        waited=$((waited + 1))
        sleep 0.1
    done
}

start_part() {
    setsid "$@" &
    part=$!
}

# The server's end ends everything; a part that ends is told of, in the words given, and the console stays up.
hold() {
    told=""
    while kill -0 "$server" 2>/dev/null; do
        if [ -z "$told" ] && ! kill -0 "$part" 2>/dev/null; then
            told=yes
            echo "$1" >&2
        fi
        sleep 0.5 &
        wait $! || true
    done
    wait "$server"
}
