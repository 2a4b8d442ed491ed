#!/bin/busybox sh
# The whole user space: mount the data disk, run the writer, go down cleanly.
bb=/bin/busybox
exec </dev/console >/dev/console 2>&1
$bb dmesg -n 4 # the console belongs to the writer now; errors of the kernel still show
root=$($bb findfs LABEL=sealift-root)
set -- /var/log/records /var/log/bulk "${root%2}3"
if [ "$($bb cat /etc/disks)" = 2 ]; then
    tries=0
    until data=$($bb findfs LABEL=sealift-data 2>/dev/null) || [ $tries -gt 20 ]; do
        tries=$((tries + 1))
        $bb usleep 50000
    done
    # A data disk that is not there is for the writer to report: its file system is empty then.
    $bb mount -t ext4 -o noatime,discard "$data" /data
    set -- "$@" /data/records /data/bulk "${data%1}2"
fi
if [ -x /sbin/start-agent ]; then
    /sbin/start-agent
fi
# Set by whoever starts the machine, never by the disk: a landed disk writes only when told.
if [ "$($bb cat /sys/class/dmi/id/chassis_asset_tag)" = sealift-autostart ]; then
    export AUTOSTART=1
fi
export SCREEN=/dev/tty0 BUTTONS=/dev/input/event
/bin/writer "$@"
$bb killall qemu-ga 2>/dev/null
$bb sync
$bb umount /data 2>/dev/null
$bb mount -o remount,ro /
$bb poweroff -f
