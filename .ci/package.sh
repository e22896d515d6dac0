#!/usr/bin/env bash
# Builds the crate with `cargo package` and the wheel from the sdist, and checks their contents. Needs the Rust toolchain and
# Python; installs the rest in a virtual environment.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR=$PWD/target PIP_DISABLE_PIP_VERSION_CHECK=1
name=tap-constant-contact
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

# same WHAT EXPECTED FOUND: ends the check if the two texts differ.
same() {
  if [ "$2" != "$3" ]; then
    printf 'NOT %s\n' "$1"
    diff <(printf '%s\n' "$2") <(printf '%s\n' "$3")
    exit 1
  fi
  printf 'ok  %s\n' "$1"
}

top_level() { cut -d/ -f1 | LC_ALL=C sort -u; }

# The entries that both packages have, beside those that each packager adds. The tests are not among them.
ours="CHANGELOG.md Cargo.lock Cargo.toml LICENSE README.md catalog.example.json docs schemas src"
with() { printf '%s\n' $ours "$@" | LC_ALL=C sort; }

same "crate: its entries" "$(with .cargo_vcs_info.json Cargo.toml.orig)" \
  "$(cargo package --package "$name" --locked --allow-dirty --list | top_level)"
# This also builds the crate from the package.
cargo package --package "$name" --locked --allow-dirty --quiet
same "crate: it builds from its package" "$name-$version.crate" \
  "$(cd "$CARGO_TARGET_DIR/package" && ls "$name-$version.crate")"

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet maturin==1.16.0
"$work/venv/bin/maturin" sdist --out "$work/sdist" 2> "$work/log" || { cat "$work/log"; exit 1; }
sdist=$work/sdist/tap_constant_contact-$version.tar.gz
# Cargo refuses a workspace without all of its members, and tests/ has one, the fake account.
same "sdist: its entries" "$(with PKG-INFO pyproject.toml tests)" \
  "$(tar -tzf "$sdist" | cut -d/ -f2- | top_level)"
same "sdist: it has the sources of the checkout" "$(find src -type f | LC_ALL=C sort)" \
  "$(tar -tzf "$sdist" | cut -d/ -f2- | grep ^src/ | LC_ALL=C sort)"

# In another folder, so that nothing is taken from the checkout.
mkdir "$work/wheel"
(cd "$work" && "$work/venv/bin/pip" wheel --quiet --no-deps --wheel-dir wheel "$sdist")
wheel=$(echo "$work"/wheel/*.whl)
same "wheel: its entries" "tap_constant_contact-$version.data tap_constant_contact-$version.dist-info" \
  "$(python3 -m zipfile --list "$wheel" | awk 'NR > 1 { print $1 }' | top_level | tr '\n' ' ' | sed 's/ $//')"

python3 -m venv "$work/installed"
# Without cargo, rustc or anything else on PATH.
alone() { (cd "$work" && env -i HOME="$work" PATH=/nowhere "$@"); }
alone installed/bin/python -m pip install --quiet --disable-pip-version-check --no-index "$wheel"
same "wheel: the command, installed and run without Rust" "$name $version" "$(alone "installed/bin/$name" --version)"
facts() {
  "$work/installed/bin/python" - <<'END'
from importlib.metadata import metadata
facts = metadata("tap-constant-contact")
for key in ["Name", "Version", "Summary", "License-Expression", "License-File", "Description-Content-Type"]:
    print(f"{key}: {facts[key]}")
print(facts["Description"] or facts.get_payload())
END
}
summary=$(sed -n 's/^description = "\(.*\)"/\1/p' Cargo.toml)
same "wheel: name, version, summary, licence, and the README as its description" "Name: $name
Version: $version
Summary: $summary
License-Expression: Apache-2.0
License-File: LICENSE
Description-Content-Type: text/markdown; charset=UTF-8; variant=GFM
$(cat README.md)" "$(facts)"

# As the README says.
python3 -m venv "$work/checkout"
"$work/checkout/bin/pip" install --quiet .
same "pip install .: the command" "$name $version" "$(cd "$work" && checkout/bin/$name --version)"
