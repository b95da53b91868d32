# shellcheck shell=bash
# The life of a machine as a user of Vagrant has it. vagrant.rs looks at the printed lines.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
mkdir -p /run/libvirt /var/lib/libvirt/images /var/lib/libvirt/qemu /var/lib/libvirt/dnsmasq
echo 1 >/proc/sys/net/ipv4/ip_forward
virtlogd --daemon
libvirtd --daemon
for _ in $(seq 100); do
    virsh -c qemu:///system version >/dev/null 2>&1 && break
    sleep 0.2
done
virsh -c qemu:///system version

ssh() { vagrant ssh -c "$1" 2>/dev/null | tr -d '\r'; }
fingerprint() { ssh 'sudo entrepot ca show' | grep fingerprint; }
# What the running service goes by, from its metrics.
cache_size() {
    ssh 'exec 3<>/dev/tcp/127.0.0.1/3130
        printf "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n" >&3
        sed -n "s/^entrepot_store_max_size_bytes //p" <&3'
}

# What a user has: the repository's files with the box, and a .env of his own.
mkdir "$HOME/entrepot"
cd "$HOME/entrepot"
cp -r "$REPOSITORY"/{Vagrantfile,README.md,docs,provision} .
mkdir image
cp -r "$REPOSITORY/image/guest" image/
ln -s "$REPOSITORY/image/out" image/out
echo 'REGISTRIES="fake.test"' >.env
# A dollar sign in a password is not expanded anywhere.
# shellcheck disable=SC2016
echo 'AUTH_REGISTRIES=fake.test:robot:canary-$x' >>.env
echo 'CACHE_MAX_SIZE=512m' >>.env

vagrant up --provider=libvirt
echo "SHOWN $(ssh 'entrepot check' | grep '^cache.max_size')"
echo "ENV $(ssh 'sudo stat -c "%a %U" /etc/entrepot/entrepot.env')"
environment=$(ssh 'sudo cat /proc/$(systemctl show entrepot -p MainPID --value)/environ | tr "\0" "\n"')
echo "$environment" | sed -n 's/^.*REGISTRIES=/VARIABLE &/p'
echo "SIZE $(cache_size)"
[ -z "$(ssh 'ls -d /tmp/entrepot-upload')" ] && echo "NOTHING LEFT"
echo "DATA $(ssh 'findmnt -n -o SOURCE /var/lib/entrepot')"
before=$(fingerprint)
[ -n "$before" ]
sed -i 's/512m/768m/' .env
vagrant provision
echo "SIZE $(cache_size)"
vagrant halt
vagrant up --provider=libvirt
[ "$(fingerprint)" = "$before" ] && echo "SAME CA"
vagrant reload
vagrant destroy -f
[ -z "$(virsh -c qemu:///system list --all --name | tr -d '\n')" ] && echo GONE
