# shellcheck shell=sh
# Makes a machine of a Debian tree and becomes its systemd: an overlay over the tree, the few devices that a container has,
# a control group hierarchy that begins at this test's group. Kernel settings of the network can be changed, others not.
# Arguments: the tree, a directory of the test, the repository.
set -eu
tree=$1 place=$2 repository=$3
# /proc is the tests' still, and so is this number.
read -r pid rest </proc/self/stat
mkdir -p "$place/upper" "$place/work" "$place/root"
root=$place/root
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$place/upper,workdir=$place/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,rw "$root/proc/sys/net"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for folder in dev run tmp; do
  mount -t tmpfs -o mode=755 tmpfs "$root/$folder"
done
chmod 1777 "$root/tmp"
# Made anew and not mounted: whoever logs in there changes the owner of the console.
for device in 'null 3' 'zero 5' 'full 7' 'random 8' 'urandom 9' 'console 3'; do
  mknod -m 666 "$root/dev/${device% *}" c 1 "${device#* }"
done
mknod -m 666 "$root/dev/tty" c 5 0
mkdir "$root/dev/pts" "$root/dev/shm" "$root/repository"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/dev/shm"
mount --bind "$repository" "$root/repository"
mount -o remount,bind,ro "$root/repository"
cp /etc/hosts /etc/resolv.conf "$root/etc/"
cat "$place/internet-ca.pem" >>"$root/etc/ssl/certs/ca-certificates.crt"
echo "systemd is process $pid"
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  chroot "$root" /lib/systemd/systemd --log-target=journal --show-status=no
