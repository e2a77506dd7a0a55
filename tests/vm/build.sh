#!/usr/bin/env bash
# build.sh DIR: what a virtual machine boots from, made of Debian's packages: DIR/{vmlinuz,initrd,modules,profile}.
set -euo pipefail
dir=$1
[ -e "$dir/profile" ] && exit 0
mkdir -p "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
download() { (cd "$work" && apt-get download -qq "$@" 2>/dev/null) || { apt-get update -qq && (cd "$work" && apt-get download -qq "$@"); }; }
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1)
download "$kernel" apparmor
for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
cp "$work"/root/boot/vmlinuz-* "$dir/vmlinuz"

# The modules that a cluster may need; the kernel asks for them itself, as on any machine.
modules=$(echo "$work"/root/lib/modules/*)
for part in net fs/overlayfs drivers/net/veth.ko drivers/net/vxlan drivers/net/dummy.ko drivers/net/virtio_net.ko \
  drivers/net/net_failover.ko lib crypto arch/x86/crypto; do
  [ -e "$modules/kernel/$part" ] || continue
  mkdir -p "$dir/modules/$(basename "$modules")/kernel/$(dirname "$part")"
  cp -a "$modules/kernel/$part" "$dir/modules/$(basename "$modules")/kernel/$(dirname "$part")/"
done
cp "$modules"/modules.{builtin,order}* "$dir/modules/$(basename "$modules")/"
mkdir "$work/lib"
ln -s "$dir/modules" "$work/lib/modules"
busybox depmod -b "$work" "$(basename "$modules")"

# Finds the disk and goes on from there.
mkdir -p "$work"/initrd/{bin,new,proc}
cp /bin/busybox "$work/initrd/bin/"
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
  find "$modules/kernel" -name "$module.ko" -exec cp {} "$work/initrd/" \;
done
cat >"$work/initrd/init" <<'INIT'
#!/bin/busybox sh
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
  [ -e /$module.ko ] && /bin/busybox insmod /$module.ko
done
/bin/busybox mkdir -p /dev
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox umount /dev
exec /bin/busybox switch_root /new /init
INIT
chmod 755 "$work/initrd/init"
(cd "$work/initrd" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$dir/initrd"

# A profile that denies writing below /tmp, compiled: machines without its compiler load it as it is.
cat >"$work/profile" <<'PROFILE'
profile naru-test flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  network,
  signal,
  mount,
  umount,
  pivot_root,
  ptrace,
  deny /tmp/** w,
}
PROFILE
"$work/root/sbin/apparmor_parser" --quiet --skip-kernel-load --skip-cache --features-file "$work/root/usr/share/apparmor-features/features" \
  --ofile "$work/profile.bin" "$work/profile"
mv "$work/profile.bin" "$dir/profile"
