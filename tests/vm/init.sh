#!/bin/busybox sh
# The first process of the virtual machine: what an ordinary host has, then the server.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for dir in /dev/shm /run /tmp; do mount -t tmpfs tmpfs "$dir"; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
hostname vm
echo '127.0.0.1 localhost' >/etc/hosts
modprobe virtio_net
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
echo 'nameserver 10.0.2.3' >/etc/resolv.conf
cat /etc/profile.apparmor >/sys/kernel/security/apparmor/.load
naru image import /images/*.tar
naru server --write-kubeconfig /run/kubeconfig &
until [ -s /run/kubeconfig ]; do sleep 0.2; done
# The second serial line leads to the test.
stty -F /dev/ttyS1 raw
cat /run/kubeconfig >/dev/ttyS1
echo '# end' >/dev/ttyS1
wait
