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
    if knows_referrers; then
        place "$folder/_default/hosts.toml" <<'EOF'
@HOSTS_TOML_WITH_REFERRERS@EOF
    else
        place "$folder/_default/hosts.toml" <<'EOF'
@HOSTS_TOML@EOF
    fi
}

# Succeeds if this containerd knows the capability "referrers": 2.2 and newer. Older ones refuse the file.
knows_referrers() {
    version=$(containerd --version 2>/dev/null | sed -n 's/^[^ ]* [^ ]* v\{0,1\}\([0-9]\{1,\}\.[0-9]\{1,\}[^ ]*\).*/\1/p')
    [ -n "$version" ] || return 1
    major=${version%%.*} minor=${version#*.}
    minor=${minor%%[!0-9]*}
    case $version in
        2.2[!0-9]*alpha* | 2.2[!0-9]*beta* | 2.2[!0-9]*rc*) return 1 ;;
    esac
    [ "$major" -gt 2 ] || { [ "$major" -eq 2 ] && [ "$minor" -ge 2 ]; }
}
