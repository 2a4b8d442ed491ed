#!/bin/busybox sh
# Finds the root file system by its label, because the controller and so the device name
# differ between the machine that it leaves and the one that it lands on.
bb=/bin/busybox
$bb mkdir -p /dev /proc /sys /root
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
exec </dev/console >/dev/console 2>&1
vendor=$($bb cat /sys/class/dmi/id/sys_vendor)
for module in $($bb cat /modules/order); do
    case $module in # these refuse to load, with a screen full of words, on other hypervisors
        hv_*) [ "$vendor" = "Microsoft Corporation" ] || continue ;;
        xen*) [ -e /sys/hypervisor/type ] || continue ;;
    esac
    $bb insmod /modules/$module || echo "cannot load $module"
done
tries=0
until root=$($bb findfs LABEL=sealift-root 2>/dev/null); do
    tries=$((tries + 1))
    if [ $tries -gt 300 ]; then
        echo "error: no file system labelled sealift-root among these:"
        $bb cat /proc/partitions
        $bb sleep 1
        $bb poweroff -f
    fi
    $bb usleep 50000
done
if ! $bb mount -t ext4 -o noatime,discard "$root" /root; then
    echo "error: cannot mount $root"
    $bb sleep 1
    $bb poweroff -f
fi
for folder in dev proc sys; do
    $bb mount --move /$folder /root/$folder
done
exec $bb switch_root /root /sbin/init
