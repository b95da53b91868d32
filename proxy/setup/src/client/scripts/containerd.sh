find_unit() {
    unit=$(installed_unit containerd.service) || fail 78 "containerd.service is not installed here"
}

check_proxy() {
    refuse_other_proxy "$unit" HTTPS_PROXY
}

place_proxy() {
    place "/etc/systemd/system/$unit.d/entrepot.conf" <<'EOF'
@DROP_IN@EOF
}

# Finds the folder in which containerd looks for hosts.toml.
check_mirror() {
    [ -n "@MIRROR@" ] || fail 78 "the appliance has no open registry door, and a mirror needs one"
    folder=/etc/containerd/certs.d
    config=/etc/containerd/config.toml
    [ -e "$config" ] || return 0
    ! noted "$config" || return 0
    paths=$(sed -n 's/^[[:space:]]*config_path[[:space:]]*=[[:space:]]*"\([^"]\{1,\}\)".*/\1/p' "$config" | sed 1q)
    [ -n "$paths" ] ||
        fail 78 "$config sets no config_path; set it to \"$folder\" for the registries there yourself"
    folder=${paths%%:*}
}

place_mirror() {
    if [ ! -e /etc/containerd/config.toml ]; then
        place /etc/containerd/config.toml <<'EOF'
@CONFIG_TOML@EOF
    fi
    place "$folder/_default/hosts.toml" <<'EOF'
@HOSTS_TOML@EOF
}
