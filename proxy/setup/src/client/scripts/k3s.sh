find_unit() {
    unit=$(installed_unit k3s.service k3s-agent.service) ||
        fail 78 "neither k3s.service nor k3s-agent.service is installed here"
}

check_proxy() {
    refuse_other_proxy "$unit" CONTAINERD_HTTPS_PROXY
}

place_proxy() {
    place "/etc/systemd/system/$unit.d/entrepot.conf" <<'EOF'
@DROP_IN@EOF
}

check_mirror() {
    [ -n "@MIRROR@" ] || fail 78 "the appliance has no open registry door, and a mirror needs one"
}

place_mirror() {
    place /etc/rancher/k3s/registries.yaml <<'EOF'
@REGISTRIES_YAML@EOF
}
