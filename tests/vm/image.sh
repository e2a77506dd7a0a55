#!/usr/bin/env bash
# image.sh VM IMAGES NARU FILE: makes FILE, the disk of a virtual machine that runs the program NARU as its only service.
set -euo pipefail
vm=$1 images=$2 naru=$3 file=$4
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,dev,etc,images,lib,proc,run,sbin,sys,tmp,usr/bin,usr/sbin,var/lib}
cp /bin/busybox "$root/bin/"
cp "$naru" "$root/bin/naru"
strip --strip-debug "$root/bin/naru" 2>/dev/null || true
cp "$(dirname "$0")/init.sh" "$root/init"
cp "$vm/profile" "$root/etc/profile.apparmor"
ln -s ../bin/busybox "$root/sbin/modprobe"
cp -a "$vm/modules" "$root/lib/modules"
for image in busybox nginx; do
  work=$(mktemp -d)
  printf '[{"Config":"config.json","RepoTags":["%s:1"],"Layers":["layer.tar.gz"]}]' "$image" >"$work/manifest.json"
  cp "$images/$image"/{config.json,layer.tar.gz} "$work/"
  tar -C "$work" -cf "$root/images/$image.tar" manifest.json config.json layer.tar.gz
  rm -rf "$work"
done
truncate -s 1G "$file"
mkfs.ext4 -q -F -E root_owner=0:0 -d "$root" "$file"
