#!/usr/bin/env bash
# build.sh DIR: makes test images from Debian's packages: for each, DIR/NAME/{layer.tar.gz,config.json,manifest.json}.
# push.sh then puts them into a registry.
set -euo pipefail
dir=$1
mkdir -p "$dir"

# unpack ROOT PACKAGE...: downloads Debian packages and unpacks them.
unpack() {
  local to=$1 debs
  shift
  debs=$(mktemp -d)
  chmod 755 "$debs"
  (cd "$debs" && apt-get download -qq "$@" 2>/dev/null) || { apt-get update -qq && (cd "$debs" && apt-get download -qq "$@"); }
  for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$to"; done
  rm -r "$debs"
}

# seal NAME CONFIG: packs DIR/NAME/root and writes config and manifest.
seal() {
  local name=$1 config=$2 layer diff
  (cd "$dir/$name/root" && tar --sort=name --owner=0 --group=0 -cf ../layer.tar .)
  diff=$(sha256sum <"$dir/$name/layer.tar" | cut -d' ' -f1)
  gzip -nf1 "$dir/$name/layer.tar"
  layer=$(sha256sum <"$dir/$name/layer.tar.gz" | cut -d' ' -f1)
  printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(dpkg --print-architecture)" "$config" "$diff" >"$dir/$name/config.json"
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%s","size":%s}]}' \
    "$(sha256sum <"$dir/$name/config.json" | cut -d' ' -f1)" "$(stat -c %s "$dir/$name/config.json")" \
    "$layer" "$(stat -c %s "$dir/$name/layer.tar.gz")" >"$dir/$name/manifest.json"
  rm -r "$dir/$name/root"
}

shell() { # busybox and its names
  mkdir -p "$1/bin" "$1/tmp" "$1/etc"
  cp /bin/busybox "$1/bin/busybox"
  for applet in sh cat echo ls sleep wget nslookup ps id env head tail grep mount mkdir rm touch kill true false date hostname tty stty wc sync dd nc; do
    ln -sf busybox "$1/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/:/bin/false\n' >"$1/etc/passwd"
  printf 'root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n' >"$1/etc/group"
}

if [ ! -e "$dir/busybox/manifest.json" ]; then
  shell "$dir/busybox/root"
  seal busybox '{"Env":["PATH=/bin"],"Cmd":["sh"]}'
fi

# closure PACKAGE: the package with the libraries that it needs, itself and through others.
closure() {
  apt-cache depends --recurse --no-{recommends,suggests,conflicts,breaks,replaces,enhances,pre-depends} "$1" |
    grep -E "^(lib|$1\$|$2)" | grep -vE ':|libllvm|libz3|libperl|libdb5|libelogind|libc-|libgdbm|libpam-mod|libse(manage|pol)' | sort -u
}

# merge ROOT: Debian's directories are symbolic links into those that the packages own.
merge() {
  local root=$1 part
  rm -rf "$root"/usr/share/{doc,man,locale} "$root"/usr/lib/*/gconv
  # The static busybox would load these plugins of another libc, and crash.
  rm -f "$root"/{usr/,}lib/*/libnss_*
  for part in lib lib64 sbin bin; do
    if [ -d "$root/$part" ] && [ ! -L "$root/$part" ]; then
      mkdir -p "$root/usr/$part"; cp -a "$root/$part/." "$root/usr/$part/"; rm -r "${root:?}/$part"; ln -s "usr/$part" "$root/$part"
    fi
  done
}

if [ ! -e "$dir/redis/manifest.json" ]; then
  root=$dir/redis/root
  mkdir -p "$root"
  unpack "$root" zlib1g $(closure redis-server redis-tools)
  merge "$root"
  shell "$root"
  seal redis '{"Env":["PATH=/usr/bin:/bin"],"Cmd":["redis-server","--save","","--bind","0.0.0.0","--protected-mode","no"]}'
fi

if [ ! -e "$dir/python/manifest.json" ]; then
  root=$dir/python/root version=$(apt-cache depends python3 | sed -n 's/.*Depends: \(python3\.[0-9]*\)$/\1/p' | head -n 1)
  mkdir -p "$root"
  unpack "$root" zlib1g $(closure "$version" "$version-minimal")
  merge "$root"
  shell "$root"
  ln -s "$version" "$root/usr/bin/python3"
  seal python '{"Env":["PATH=/usr/bin:/bin"],"Cmd":["python3","-m","http.server","8000"]}'
fi

if [ ! -e "$dir/postgres/manifest.json" ]; then
  root=$dir/postgres/root version=$(apt-cache depends postgresql | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1/p' | head -n 1)
  mkdir -p "$root"
  unpack "$root" zlib1g $(closure "$version" "postgresql-client-|tzdata$")
  # What compiles queries needs a compiler of 100 MB.
  rm -rf "$root"/usr/lib/postgresql/*/lib/{bitcode,llvmjit*}
  merge "$root"
  shell "$root"
  echo 'postgres:x:70:70::/data:/bin/sh' >>"$root/etc/passwd"
  echo 'postgres:x:70:' >>"$root/etc/group"
  mkdir -p "$root/var/run/postgresql"
  chmod 1777 "$root/tmp" "$root/var/run/postgresql"
  cat >"$root/start" <<'START'
#!/bin/sh
[ -e /data/db/PG_VERSION ] || initdb -D /data/db -A trust -U postgres
exec postgres -D /data/db -k /tmp -h ''
START
  chmod 755 "$root/start"
  seal postgres "{\"Env\":[\"PATH=/usr/lib/postgresql/${version#postgresql-}/bin:/usr/bin:/bin\"],\"User\":\"postgres\",\"Cmd\":[\"/start\"]}"
fi

if [ ! -e "$dir/nginx/manifest.json" ]; then
  root=$dir/nginx/root
  mkdir -p "$root"
  unpack "$root" nginx nginx-common libc6 libcrypt1 libpcre2-8-0 libssl3 zlib1g
  merge "$root"
  shell "$root"
  mkdir -p "$root"/var/{log/nginx,lib/nginx,www/html} "$root/run" "$root/etc/nginx"
  echo 'Welcome to nginx!' >"$root/var/www/html/index.html"
  cat >"$root/etc/nginx/nginx.conf" <<'CONF'
daemon off;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 256; }
http {
  access_log /dev/stdout;
  server { listen 80; root /var/www/html; }
}
CONF
  seal nginx '{"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["nginx"],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT"}'
fi
