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
"$tap" --config config.json "${state[@]}" 2> tap.log |
  "$target" --config target.json > state.new 2> target.log
codes=("${PIPESTATUS[@]}")
# A run that brings no new state keeps the old one.
[ -s state.new ] && tail -n 1 state.new > state.tmp && mv state.tmp state.json

if [ "${codes[*]}" = "0 0" ]; then
  # An ERROR that did not end the run still means that something was not read.
  grep '^ERROR' tap.log >&2
  exit 0
fi
{
  echo "$PWD: the tap ended with ${codes[0]}, the target with ${codes[1]}"
  # 141: the target ended first, so the reason is the target's.
  [ "${codes[0]}" -eq 141 ] && tail -n 5 target.log
  grep '^CRITICAL' tap.log || tail -n 5 tap.log target.log
} >&2
[ "${codes[0]}" -ne 0 ] && exit "${codes[0]}"
exit "${codes[1]}"
