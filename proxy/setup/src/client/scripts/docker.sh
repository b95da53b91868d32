find_unit() {
    unit=$(installed_unit docker.service) || fail 78 "docker.service is not installed here"
}

check_proxy() {
    refuse_other_proxy "$unit" HTTPS_PROXY
    if grep -q '"proxies"' /etc/docker/daemon.json 2>/dev/null; then
        fail 78 "/etc/docker/daemon.json sets proxies already; it stays as it is: remove them first"
    fi
}

place_proxy() {
    place "/etc/systemd/system/$unit.d/entrepot.conf" <<'EOF'
@DROP_IN@EOF
}

check_mirror() {
    [ -n "@DOCKER_MIRROR@" ] ||
        fail 78 "the appliance has no listener for Docker's registry-mirrors; set registry.mirror_listen there"
    [ ! -e /etc/docker/daemon.json ] || noted /etc/docker/daemon.json ||
        fail 78 "/etc/docker/daemon.json exists; add \"registry-mirrors\": [\"@DOCKER_MIRROR@\"] to it yourself"
}

place_mirror() {
    place /etc/docker/daemon.json <<'EOF'
@DAEMON_JSON@EOF
}
