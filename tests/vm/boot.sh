#!/usr/bin/env bash
# boot.sh VM DIR: runs the machine of DIR/disk with its console in DIR/server.log, its second serial line in DIR/serial
# and its API on port 6443 of the loopback address. The processor is emulated: a stock kernel needs nothing of the host.
set -euo pipefail
exec qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 1536 -display none -no-reboot -nodefaults \
  -serial "file:$2/server.log" -serial "file:$2/serial" -kernel "$1/vmlinuz" -initrd "$1/initrd" \
  -append "console=ttyS0 panic=-1 quiet" -drive "file=$2/disk,format=raw,if=virtio,cache=unsafe" \
  -netdev user,id=net,hostfwd=tcp:127.0.0.1:6443-:6443 -device virtio-net-pci,netdev=net,romfile=
