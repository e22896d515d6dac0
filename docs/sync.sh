#!/bin/bash
# One sync: the tap into the target, from the last state on. Quiet where it succeeds; says why where it fails.
tap=/home/me/tap-constant-contact/.venv/bin/tap-constant-contact
target=/home/me/constant-contact/loader/bin/target-postgres

# Everything else stands in the folder of this script.
cd "$(dirname "$0")" || exit
# One run at a time; a second one leaves the work to the first.
exec 9> lock || exit
flock --nonblock --conflict-exit-code 100 9
case $? in 0) ;; 100) exit 0 ;; *) exit 1 ;; esac

state=()
[ -s state.json ] && state=(--state state.json)
# Beside the script and not in its foreground, where bash would take a signal only after they have ended.
rm -f pipe && mkfifo pipe || exit
"$target" --config target.json < pipe > state.new 2> target.log &
target_id=$!
"$tap" --config config.json "${state[@]}" > pipe 2> tap.log &
tap_id=$!
# Who is told to end lets the tap write its last state, and the target store it.
trap 'told=1; kill "$tap_id"' TERM INT HUP
wait "$tap_id"; tap_code=$?
[ -n "$told" ] && { wait "$tap_id"; tap_code=$?; }
wait "$target_id"; target_code=$?
# A run that brings no new state keeps the old one.
[ -s state.new ] && tail -n 1 state.new > state.tmp && mv state.tmp state.json

if [ "$tap_code $target_code" = "0 0" ]; then
  # An ERROR that did not end the run still means that something was not read.
  grep '^ERROR' tap.log >&2
  exit 0
fi
{
  echo "$PWD: the tap ended with $tap_code, the target with $target_code"
  # 141: the target ended first, so the reason is the target's.
  [ "$tap_code" -eq 141 ] && tail -n 5 target.log
  grep '^CRITICAL' tap.log || tail -n 5 tap.log target.log
} >&2
[ "$tap_code" -ne 0 ] && exit "$tap_code"
exit "$target_code"
