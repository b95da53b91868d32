# The life of a machine as a user of Vagrant has it. What is printed is looked at by vagrant.rs.
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

vagrant up --provider=libvirt
echo "SHOWN $(ssh 'entrepot check' | grep '^cache.max_size')"
echo "DATA $(ssh 'findmnt -n -o SOURCE /var/lib/entrepot')"
before=$(fingerprint)
[ -n "$before" ]
vagrant provision
vagrant halt
vagrant up --provider=libvirt
[ "$(fingerprint)" = "$before" ] && echo "SAME CA"
vagrant reload
vagrant destroy -f
[ -z "$(virsh -c qemu:///system list --all --name | tr -d '\n')" ] && echo GONE
