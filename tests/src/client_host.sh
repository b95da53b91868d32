# shellcheck shell=bash
set -eu

fail() {
    echo "$*" >&2
    exit 1
}

# Units that packages of other distributions bring, and what stands in for systemctl.
prepare() {
    mkdir -p /out/bin /etc/systemd/system /etc/rancher/k3s /etc/buildkit /usr/lib/systemd/system
    for unit in docker containerd crio k3s-agent buildkit; do
        [ -e "/usr/lib/systemd/system/$unit.service" ] || echo '[Service]' >"/etc/systemd/system/$unit.service"
    done
    echo 'debug = true' >/etc/buildkit/buildkitd.toml
    cat >/out/bin/systemctl <<'EOF'
#!/bin/bash
echo "$@" >>/out/systemctl
# The power fails here, as far as whoever called can tell.
[ ! -e /out/deadly ] || kill -9 $PPID
# A unit that does not start.
[ ! -e /out/failing ] || [ "$*" != "try-restart $(cat /out/failing)" ] || exit 1
if [ "$*" = "try-restart docker.service" ] && [ -e /out/dockerd.pid ]; then
    . /out/functions
    stop_dockerd
    start_dockerd
fi
EOF
    chmod +x /out/bin/systemctl
    declare -f fail start_dockerd stop_dockerd >/out/functions
    # Java's keystore takes seconds, and has the time of its making in it.
    rm -f /etc/ca-certificates/update.d/jks-keystore
    export DOCKER_HOST=unix:///out/docker.sock
}

# The trust store as the distribution's own tool makes it.
settle_trust() {
    update-ca-certificates --fresh >/dev/null 2>&1
}

# From here on the trust tool does nothing, and the store is as it was when `cp -a /etc/ssl/certs /out/certs` was run:
# set-up works until it relies on what this machine trusts.
break_trust() {
    printf '#!/bin/sh\n' >/usr/sbin/update-ca-certificates
    rm -rf /etc/ssl/certs
    cp -a /out/certs /etc/ssl/certs
}

# The appliance by the name that it is announced by, as with libnss-mdns.
name_appliance() {
    cp /etc/hosts /out/hosts
    echo "10.90.1.1 docker-registry.local" >>/out/hosts
    mount --bind /out/hosts /etc/hosts
}

# dockerd with the environment that systemd would give it.
start_dockerd() {
    local settings=()
    if [ -e /etc/systemd/system/docker.service.d/entrepot.conf ]; then
        eval "settings=($(sed -n 's/^Environment=//p' /etc/systemd/system/docker.service.d/entrepot.conf))"
    fi
    rm -f /out/docker.sock
    env -u DOCKER_HOST "${settings[@]}" dockerd --data-root /out/docker --exec-root /out/docker-exec \
        --pidfile /out/docker-own.pid --host unix:///out/docker.sock --iptables=false --ip6tables=false \
        --bridge=none --max-download-attempts=1 --storage-driver vfs >>/out/dockerd.log 2>&1 &
    echo $! >/out/dockerd.pid
    for _ in $(seq 300); do
        if DOCKER_HOST=unix:///out/docker.sock docker version >/dev/null 2>&1; then
            return
        fi
        sleep 0.1
    done
    fail "dockerd did not start: $(tail -5 /out/dockerd.log)"
}

stop_dockerd() {
    kill "$(cat /out/dockerd.pid)"
    while kill -0 "$(cat /out/dockerd.pid)" 2>/dev/null; do
        sleep 0.1
    done
    rm -f /out/dockerd.pid
}

# Everything that set-up may touch, with its content.
snapshot() {
    local places=(/etc /usr/local/share/ca-certificates /usr/share/ca-certificates)
    [ ! -e /var/lib/entrepot-client ] || places+=(/var/lib/entrepot-client)
    {
        find "${places[@]}" -printf '%M %u %p %l\n'
        find "${places[@]}" -type f -print0 | xargs -0 sha256sum
    } | sort >"/out/$1"
}
