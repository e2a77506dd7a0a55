# Shared by the scripts: where things are, and how what is missing gets installed.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
target=${CARGO_TARGET_DIR:-$root/target}

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# packages PACKAGE...: installs those Debian packages that are missing.
packages() {
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  [ "$(id -u)" = 0 ] || die "these packages are missing, and only root can install them: ${missing[*]}"
  say "installing ${missing[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >"${TMPDIR:-/tmp}/naru-apt.log" 2>&1 || { tail -n 20 "${TMPDIR:-/tmp}/naru-apt.log" >&2; die "could not install ${missing[*]}"; }
}

# at_least WANT HAVE: compares versions.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# toolchain: a cargo that is new enough: the one on PATH, else Debian's.
toolchain() {
  local want have
  want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
  packages gcc libc6-dev
  have=$(cargo --version 2>/dev/null | cut -d' ' -f2)
  if [ -n "$have" ] && at_least "$want" "$have"; then return 0; fi
  packages rustc-web cargo-web
  have=$(cargo --version 2>/dev/null | cut -d' ' -f2)
  at_least "$want" "${have:-0}" || die "Rust $want or newer is needed, and only ${have:-none} could be found"
}

# host: the target that the build writes below the target directory.
host() { rustc -vV | sed -n 's/^host: //p'; }
