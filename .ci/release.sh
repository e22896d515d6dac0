#!/usr/bin/env bash
# Builds the release for one target into dist/: a wheel and an archive with the same binary. Then runs the binary.
# `.ci/release.sh x86_64-unknown-linux-gnu`. Linux targets are linked with zig, against an old glibc or against musl.
# Needs the Rust toolchain with that target, and Python.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1
name=tap-constant-contact
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
mkdir -p dist

linker=()
case $target in
*-linux-gnu) linker=(--zig --compatibility manylinux_2_17) ;;
*-linux-musl) linker=(--zig --compatibility musllinux_1_2) ;;
esac
python3 -m venv "$work/venv"
bin=$work/venv/bin
[ -d "$bin" ] || bin=$work/venv/Scripts
"$bin/python" -m pip install maturin==1.16.0 ziglang==0.15.2
PATH=$bin:$PATH maturin build --release --locked --target "$target" ${linker[@]+"${linker[@]}"} --out "$work/wheel"
wheel=$(echo "$work"/wheel/*.whl)

# Cargo.toml names this archive for cargo binstall.
python3 -m zipfile --extract "$wheel" "$work/unpacked"
archive=$work/archive
mkdir -p "$archive/completions" "$archive/man"
cp "$work"/unpacked/*.data/scripts/* README.md LICENSE CHANGELOG.md "$archive"
tap=$archive/$name
[ -e "$tap" ] || tap=$tap.exe
chmod +x "$tap"
for shell in bash zsh fish powershell elvish; do "$tap" completions "$shell" > "$archive/completions/$name.$shell"; done
for command in "" login doctor; do "$tap" man $command > "$archive/man/$name${command:+-$command}.1"; done

# From the wheel if pip accepts it here, else from the archive: a wheel for musl has a static binary.
if "$bin/python" -m pip install --no-index "$wheel" 2> "$work/log"; then
  tap=$bin/$(basename "$tap")
elif [[ $target != *-musl ]]; then
  cat "$work/log" >&2
  exit 1
fi
[ "$("$tap" --version | tr -d '\r')" = "$name $version" ]
"$tap" --discover | diff --strip-trailing-cr - catalog.example.json
echo "ok  $target: $(basename "$wheel"): --version and --discover"
if [ -n "${FAKE_ACCOUNT:-}" ]; then
  # The fake account serves until its stdin ends.
  coproc "$FAKE_ACCOUNT" serve "$work/play"
  read -r ready <&"${COPROC[0]}"
  [[ $ready = ready* ]]
  "$tap" --config "$work/play/config.json" > "$work/messages.jsonl"
  records=$(grep -c '"type":"RECORD"' "$work/messages.jsonl")
  eval "exec ${COPROC[1]}>&-"
  wait "$COPROC_PID"
  echo "ok  $target: $records rows of the fake account"
fi

cp "$wheel" dist
tar -czf "dist/$name-$target.tar.gz" -C "$archive" .
