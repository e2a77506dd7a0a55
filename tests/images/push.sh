#!/usr/bin/env bash
# push.sh DIR REGISTRY NAME TAG: puts the image in DIR/NAME into a plain HTTP registry.
set -euo pipefail
dir=$1/$3 base=http://$2/v2/$3

blob() {
  local digest location
  digest=sha256:$(sha256sum <"$1" | cut -d' ' -f1)
  location=$(curl -fsS -X POST -o /dev/null -D - "$base/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  case $location in /*) location=http://${base#http://}; location=${location%%/*}$location ;; esac
  curl -fsS -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$1" -o /dev/null "$location&digest=$digest"
}

blob "$dir/layer.tar.gz"
blob "$dir/config.json"
curl -fsS -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$dir/manifest.json" \
  -o /dev/null "$base/manifests/$4"
