# There is no daemon, so nothing is restarted.
find_unit() {
    unit=
    [ -d /etc/containers ] || fail 78 "podman is not installed here: no /etc/containers"
}

check_proxy() {
    for file in /etc/containers/containers.conf /etc/containers/containers.conf.d/*.conf; do
        if [ ! -f "$file" ] || [ "$file" = /etc/containers/containers.conf.d/50-entrepot.conf ]; then
            continue
        fi
        if sed -n '/^[[:space:]]*\[engine\]/,/^[[:space:]]*\[/p' "$file" | grep -q '^[[:space:]]*env[[:space:]]*='; then
            fail 78 "$file sets the engine's env already; add \"HTTPS_PROXY=$proxy\" to it yourself"
        fi
    done
}

place_proxy() {
    place /etc/containers/containers.conf.d/50-entrepot.conf <<'EOF'
@CONTAINERS_CONF@EOF
}

check_mirror() {
    [ -n "@MIRROR@" ] || fail 78 "the appliance has no open registry door, and a mirror needs one"
    for file in /etc/containers/registries.conf /etc/containers/registries.conf.d/*.conf; do
        if [ ! -f "$file" ] || [ "$file" = /etc/containers/registries.conf.d/50-entrepot.conf ]; then
            continue
        fi
        if grep -q '^[[:space:]]*\[\[registry\]\]' "$file"; then
            fail 78 "$file has settings for registries already; add the mirrors to it yourself"
        fi
    done
}

place_mirror() {
    place /etc/containers/registries.conf.d/50-entrepot.conf <<'EOF'
@REGISTRIES_CONF@EOF
}
