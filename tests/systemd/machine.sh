#!/usr/bin/env bash
# The inside of boot.sh, in namespaces of its own: puts the machine's files together and becomes its first process.
set -euo pipefail
dir=$1 program=$2
root=$dir/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/disk/upper,workdir=$dir/disk/work" "$root"
# Whatever is not this layer is somebody else's machine.
[ "$(stat --file-system --format %T "$root")" = overlayfs ]
if [ ! -e "$root/etc/naru-machine" ]; then
  : >"$root/etc/fstab"
  : >"$root/etc/machine-id"
  rm -rf "$root"/etc/systemd/system/*.wants "$root/etc/naru"
  ln -sf "$program" "$root/usr/local/bin/naru"
  mkdir -p "$root/etc/naru" "$root/var/lib/naru"
  : >"$root/etc/naru-machine"
fi
mount --bind "$dir/data" "$root/var/lib/naru"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
  : >"$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
: >"$root/dev/console"
mount --bind "$dir/console" "$root/dev/console"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
exec env -i container=naru PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  chroot "$root" /lib/systemd/systemd --system --log-target=console --unit=multi-user.target
