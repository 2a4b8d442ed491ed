#!/bin/busybox sh
# There is no udev to name the port, and nothing may be written to a frozen file system.
bb=/bin/busybox
# A port that answers, for whoever gives the machine a network; the address is that of QEMU's own.
if [ -e /sys/class/net/eth0 ]; then
    $bb ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
    (while :; do $bb echo sealift | $bb nc -l -p 7; done) >/dev/null 2>&1 &
fi
$bb mount -t tmpfs run /run
for port in /sys/class/virtio-ports/*; do
    if [ "$($bb cat $port/name)" = org.qemu.guest_agent.0 ]; then
        qemu-ga -m virtio-serial -p /dev/${port##*/} -t /run -f /run/qemu-ga.pid >/run/log 2>&1 &
    fi
done
