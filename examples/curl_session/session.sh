#!/bin/sh
# One job by hand: submit, watch, look at what is frozen, fetch the report. Needs curl and a running `smartfrz up`.
#
#   SMARTFRZ_URL, SMARTFRZ_API_KEY   else taken from ${SMARTFRZ_HOME:-.smartfrz}
set -eu

here=$(dirname "$0")
home=${SMARTFRZ_HOME:-.smartfrz}
url=${SMARTFRZ_URL:-$(sed -n 's/.*"url": *"\([^"]*\)".*/\1/p' "$home/server.json")}
key=${SMARTFRZ_API_KEY:-$(cat "$home/admin.key")}

# The key goes through a file descriptor, so that no process list shows it.
call() {
    curl --silent --show-error --fail-with-body --config - "$@" <<CONFIG
header = "Authorization: Bearer $key"
CONFIG
}

# First value of a string field of a JSON document. Scripts of your own: use jq.
field() {
    sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p;" | head -n 1
}

echo "== the spec is checked, nothing is written"
call --json @"$here/job.json" "$url/v1/jobs?validate_only=true" >/dev/null && echo ok

echo "== a wrong spec is a 422 with a pointer"
sed 's/resnet-small/resnet-tiny/' "$here/job.json" | call --json @/dev/fd/3 "$url/v1/jobs" 3<&0 || echo
echo

echo "== submit; the key makes a repeat harmless"
again=$(date +%s)-$$
job=$(call --json @"$here/job.json" -H "Idempotency-Key: $again" "$url/v1/jobs" | sed 's/,"name".*//' | field id)
echo "$job"

echo "== events as they come, until the job ends"
call --no-buffer -H "Accept: text/event-stream" "$url/v1/jobs/$job/events" | grep --line-buffered '^event:'

echo "== what is frozen, and what that saved (estimated)"
call "$url/v1/jobs/$job/freeze" | tr '{' '\n' | sed -n 's/^"name": *"\([^"]*\)".*"state": *"\([^"]*\)".*/  \2  \1/p'
call "$url/v1/jobs/$job/freeze" | sed -n 's/.*"estimated": *{\([^}]*\)}.*/\1/p' | tr ',' '\n' | sed 's/^/  /; s/"//g'; echo

echo "== the report"
call "$url/v1/jobs/$job/artifacts/report.json" | sed -n '1,30p'

status=$(call "$url/v1/jobs/$job" | field status)
echo "== $status"
test "$status" = succeeded
