#!/usr/bin/env bash
# Installs what the tests need (Debian packages that are missing) and runs every check and test.
#
#   ./test.sh            everything
#   ./test.sh PART…      some parts, in the order given
#   ./test.sh --list     the parts
#
# Output of each part is kept in target/test-logs. The last line is `N passed, N failed`: a check counts as
# one, cargo's tests and the clients' suites as many as they are. Exits 1 if anything failed.
set -uo pipefail
cd "$(dirname "$0")"

# What the tests talk to or through: servers, clients of other languages, and a compiler for libfuzzer.
packages=(memcached libmemcached-tools nutcracker php-cli php-memcache php-memcached
  python3-pymemcache python3-pylibmc python3-venv ruby ruby-dalli
  golang-go golang-github-bradfitz-gomemcache-dev g++ valgrind openssl)
parts=(setup fmt clippy doc fuzz sim test suites cost)
logs=target/test-logs
passed=0
failed=0

describe() {
  cat <<'EOF'
setup    installs the Debian packages that are missing
fmt      cargo fmt --check
clippy   cargo clippy, warnings are errors
doc      cargo doc of private items too, warnings are errors
fuzz     builds the fuzz targets
sim      the simulator: its own tests, 1,000 fixed seeds and 200 fresh ones
test     cargo test of the rest of the workspace, end-to-end tests included
e2e      the end-to-end tests alone (part of `test`)
suites   real clients' own suites, directly and through the proxy; installs them below target/suites
cost     counts the instructions of the engine per request; fails if a path takes 15 % more than written down
EOF
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

part_setup() {
  local missing=() package component
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  # Node.js often comes from elsewhere, and then Debian's npm cannot be installed beside it.
  command -v npm >/dev/null || missing+=(nodejs npm)
  if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    # The lists may be missing or out of date; fetching them takes a while, so only if need be.
    apt_install "${missing[@]}" || { as_root apt-get update && apt_install "${missing[@]}"; } || return 1
  fi
  for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component" || return 1
  done
}

part_fmt() { cargo fmt --all --check; }

part_clippy() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

part_doc() { RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --document-private-items --no-deps --locked; }

# Without instrumentation, so that a stable compiler builds them; `cargo fuzz` adds it.
part_fuzz() {
  RUSTFLAGS='--cfg fuzzing' CARGO_TARGET_DIR=target/fuzz \
    cargo build --manifest-path fuzz/Cargo.toml --locked
}

# In release: its tests run tens of thousands of seeds. The fresh ones are named in the output, and a seed that fails
# says how to replay it.
part_sim() {
  cargo test --release --package sim --locked --no-fail-fast &&
    cargo run --release --package sim --locked -- --seeds 1000 &&
    cargo run --release --package sim --locked -- --seeds 200 --from "$(date +%s)"
}

part_test() { cargo test --workspace --exclude sim --locked --no-fail-fast; }

part_e2e() { cargo test --package magent --test e2e --locked --no-fail-fast; }

part_suites() {
  cargo build --package magent --locked && suites/run.py --magent "${MAGENT_BIN:-target/debug/magent}"
}

# Times on a shared machine say little; instructions are the same every time.
part_cost() {
  if [ "$(uname -m)" != x86_64 ]; then
    echo "the counts that are written down are of x86-64: not compared"
    return
  fi
  cargo build --release --package bench --locked && target/release/bench instructions --check 15
}

# Adds up the `test result:` lines of a log. A test that was skipped has not passed.
count_tests() {
  local log=$1 status=$2 part_passed part_failed
  read -r part_passed part_failed < <(awk '
    /^test result: / {
      for (i = 2; i <= NF; i++) {
        if ($i ~ /^passed/) passed += $(i - 1)
        if ($i ~ /^failed/ || $i ~ /^ignored/) failed += $(i - 1)
      }
    }
    END { print passed + 0, failed + 0 }' "$log")
  # It did not build, or a test took the whole process down.
  if [ "$status" != 0 ] && [ "$part_failed" = 0 ]; then part_failed=1; fi
  passed=$((passed + part_passed))
  failed=$((failed + part_failed))
}

run_part() {
  local part=$1 started=$SECONDS status=0 verdict=ok
  echo "=== $part"
  "part_$part" 2>&1 | tee "$logs/$part.log" || status=1
  case $part in
    sim | test | e2e | suites) count_tests "$logs/$part.log" "$status" ;;
    *) if [ "$status" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi ;;
  esac
  [ "$status" = 0 ] || verdict=FAILED
  echo "=== $part: $verdict after $((SECONDS - started)) s"
}

if [ "${1:-}" = --list ]; then
  describe
  exit 0
fi
for part in "$@"; do
  if ! describe | grep -q "^$part "; then
    echo "test.sh: no part \"$part\"; ./test.sh --list names them" >&2
    exit 2
  fi
done
[ $# = 0 ] || parts=("$@")
mkdir -p "$logs"
for part in "${parts[@]}"; do run_part "$part"; done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
