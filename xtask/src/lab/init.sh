#!/bin/busybox sh
# The first process of the lab's machine. docs/lab.md has the page for people.
/bin/busybox mkdir -p /proc /sys /dev /host
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/modules/$module" || echo "LAB: $module was not loaded"
done < /modules/order
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host || poweroff -f
for folder in proc sys dev; do
    mount --bind /$folder /host/$folder
done
mount -t tmpfs tmpfs /host/run
mkdir /host/run/lab
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 results /host/run/lab || poweroff -f
# The devices that tests drive from user space: edu, ivshmem, e1000, pci-testdev.
for device in /sys/bus/pci/devices/*; do
    case "$(cat "$device/vendor"):$(cat "$device/device")" in
    0x1234:0x11e8 | 0x1af4:0x1110 | 0x8086:0x100e | 0x1b36:0x0005)
        echo vfio-pci > "$device/driver_override"
        echo "${device##*/}" > /sys/bus/pci/drivers_probe
        ;;
    esac
done
# For the tests of huge pages.
echo 64 > /proc/sys/vm/nr_hugepages
chroot /host /bin/sh /run/lab/job > /host/run/lab/output 2>&1
echo $? > /host/run/lab/status
dmesg > /host/run/lab/dmesg
umount /host/run/lab
poweroff -f
