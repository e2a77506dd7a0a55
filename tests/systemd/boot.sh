#!/usr/bin/env bash
# A machine with the distribution's systemd as its first process, until its standard input ends: boot.sh DIR PROGRAM.
# It has this machine's files below a layer of its own, and this process' network. DIR/data is its /var/lib/naru; the
# number of its first process is in DIR/init, and what it says in DIR/console.
set -euo pipefail
dir=$1 program=$2
here=$(cd "$(dirname "$0")" && pwd)
group=$(findmnt --noheadings --output TARGET --types cgroup2 | head -n 1)/$(basename "$dir")

mkdir -p "$dir/disk" "$dir/root" "$dir/data" "$group"
echo $$ >"$group/cgroup.procs"
mount -t tmpfs tmpfs "$dir/disk"
mkdir "$dir/disk/upper" "$dir/disk/work"
: >"$dir/console"

machine=
finish() {
  [ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null || true
  wait 2>/dev/null || true
  echo $$ >"$(dirname "$group")/cgroup.procs"
  # What was killed needs a moment to be gone.
  for _ in $(seq 200); do
    find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    [ -d "$group" ] || break
    sleep 0.05
  done
}
trap finish EXIT

# The end of the standard input is the end of the machine, whatever became of who started it.
exec 3<&0
main=$$
(cat <&3 >/dev/null && kill -TERM "$main") 2>/dev/null &
trap 'exit 0' TERM

while :; do
  unshare --pid --fork --kill-child --mount --uts --ipc --cgroup --propagation private \
    "$here/machine.sh" "$dir" "$program" </dev/null &
  machine=$!
  until init=$(pgrep -P "$machine") || ! kill -0 "$machine" 2>/dev/null; do sleep 0.05; done
  echo "$init" >"$dir/init"
  status=0
  wait "$machine" || status=$?
  machine=
  rm -f "$dir/init"
  # The first process of a machine that boots again ends by SIGHUP.
  [ "$status" = 129 ] || break
  # Of the network only what a machine would have after a boot stays.
  nft flush ruleset
  ip -o link | sed -n 's/^[0-9]*: \(naru[^:@]*\).*/\1/p' | xargs -r -n 1 ip link delete
  ip route flush proto 110 2>/dev/null || true
  ip route flush proto 111 2>/dev/null || true
done
