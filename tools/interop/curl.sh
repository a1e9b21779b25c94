#!/usr/bin/env bash
# Everything once with curl, over HTTP/1.1 and over HTTP/2 with prior knowledge (T-1).
set -euo pipefail
dir="$(mktemp -d)"
RUNELOG_HOST=127.0.0.1 RUNELOG_PORT=0 RUNELOG_PORT_FILE="$dir/port" RUNELOG_DATA_DIR="$dir/data" \
    RUNELOG_SHARDS=2 RUST_LOG=warn "$RUNELOG" serve &
server=$!
trap 'kill -9 $server 2>/dev/null || true; rm -rf "$dir"' EXIT
for _ in $(seq 3000); do [ -s "$dir/port" ] && break; sleep 0.01; done
base="http://$(cat "$dir/port")"
failed=0

# expect WHAT REGEX TEXT
expect() {
    if printf %s "$3" | grep -Eqz -- "$2"; then
        echo "ok    $1"
    else
        failed=1
        printf 'FAIL  %s\n      expected %s in\n%s\n' "$1" "$2" "$3"
    fi
}

for protocol in http1.1 http2-prior-knowledge; do
    as=(curl -sS --max-time 20 "--$protocol" -H 'Content-Type: application/json')
    topic="t-$protocol"
    shown() { "${as[@]}" -w '\n%{http_version} %{http_code}' "$@"; }
    version=$([ "$protocol" = http1.1 ] && echo 1.1 || echo 2)
    expect "$protocol PUT" "\"created\":true.*$version 201" "$(shown -X PUT -d '{"durability":"fsync"}' "$base/v0/topics/$topic")"
    expect "$protocol append" '"seqs":\[1,2\].* 200' "$(shown -d '{"records":[{"data":{"a" :1}},{"data":2}]}' "$base/v0/topics/$topic")"
    expect "$protocol state" "\"head_seq\":2.*$version 200" "$(shown "$base/v0/topics/$topic")"
    expect "$protocol diff" '"data":\{"a" :1\}.* 200' "$(shown -d '{}' "$base/v0/topics/$topic/diff")"
    expect "$protocol long-poll" '"records":\[\].* 200' "$(shown -d '{"from_seq":2,"wait_ms":50}' "$base/v0/topics/$topic/diff")"
    expect "$protocol list" "\"topic\":\"$topic\".* 200" "$(shown "$base/v0/topics?prefix=$topic")"
    expect "$protocol HEAD" 'content-length: +[1-9]' "$("${as[@]}" -I "$base/v0/topics/$topic" | tr 'A-Z' 'a-z')"
    expect "$protocol 404" 'topic_not_found.* 404' "$(shown "$base/v0/topics/absent")"
    expect "$protocol 405" ' 405' "$(shown -X PATCH "$base/v0/topics/$topic")"
    expect "$protocol metrics" 'topics_wal_fsyncs_total.* 200' "$(shown "$base/v0/metrics")"
    head -c 3000000 /dev/zero | tr '\0' x >"$dir/pad"
    { printf '{"records":['; for n in 1 2 3; do [ $n = 1 ] || printf ,; printf '{"data":"'; head -c 1000000 "$dir/pad"; printf '"}'; done; printf ']}'; } >"$dir/body"
    expect "$protocol large body" '"count":3.* 200' "$(shown --data-binary @"$dir/body" "$base/v0/topics/$topic")"
    "${as[@]}" -d '{"from_seq":2,"max_batch_bytes":8388608}' -o "$dir/answer" "$base/v0/topics/$topic/diff"
    expect "$protocol large answer" '^3[0-9]{6}$' "$(stat -c %s "$dir/answer")"

    # A reader: curl -N prints what comes as it comes.
    session="$("${as[@]}" -d "{\"topics\":{\"$topic\":{\"from_seq\":5}}}" "$base/v0/watch")"
    url="$(grep -o '/v0/watch/wid_[A-Za-z0-9_-]*' <<<"$session")"
    curl -sS -N -D "$dir/headers" "--$protocol" --max-time 10 "$base$url" >"$dir/stream" &
    reader=$!
    for _ in $(seq 500); do grep -q 'event: caught-up' "$dir/stream" && break; sleep 0.01; done
    for data in '"one"' '"two"'; do "${as[@]}" -o /dev/null -d "{\"records\":[{\"data\":$data}]}" "$base/v0/topics/$topic"; done
    for _ in $(seq 500); do grep -q '"two"' "$dir/stream" && break; sleep 0.01; done
    "${as[@]}" -o /dev/null -X DELETE "$base/v0/topics/$topic"
    status=0
    wait $reader || status=$?
    # The topic is gone: the stream is ended by the server, within its heartbeat of 15 s at most. Until then
    # the reader gives up by itself (28), which is fine too.
    expect "$protocol -N ends" '^(0|28)$' "$status"
    expect "$protocol -N headers" 'content-type: text/event-stream' "$(tr 'A-Z' 'a-z' <"$dir/headers")"
    expect "$protocol -N begins" '^retry: 2000' "$(cat "$dir/stream")"
    expect "$protocol -N events" 'event: caught-up.*event: record.*"one".*event: record.*"two"' "$(cat "$dir/stream")"
done

expect "websocket over HTTP/2" '405' "$(curl -sS -o /dev/null -w '%{http_code}' --http2-prior-knowledge "$base/v0/ws")"
expect "Upgrade: h2c is passed over" '1.1 200' "$(curl -sS -o /dev/null -w '%{http_version} %{http_code}' --http2 "$base/v0/health")"
kill -TERM $server
status=0
wait $server || status=$?
expect "exit status of the server" '^0$' "$status"
exit $failed
