# What the set-up scripts and their undo share. Everything is noted in $state before it is changed:
#   files    checksum, size and path of each file that was written
#   folders  folders that were made, the uppermost first
#   units    services to restart
umask 022
state=/var/lib/entrepot-client/script
work=

say() {
    echo "entrepot: $*"
}

fail() {
    code=$1
    shift
    echo "entrepot: $*" >&2
    exit "$code"
}

need_root() {
    [ "$(id -u)" -eq 0 ] || fail 77 "this changes files of the system: run it as root, for example with sudo sh"
}

# Writes standard input to a file of our own. A file that is somebody's is left alone.
place() {
    cat >"$work/new"
    if [ -e "$1" ]; then
        if [ "$(cksum <"$work/new")" = "$(cksum <"$1")" ]; then
            say "$1 is as it should be"
            return
        fi
        noted "$1" || fail 78 "$1 is there already and not ours; it is left as it is"
    fi
    note_folders "$(dirname "$1")"
    sum=$(cksum <"$work/new")
    if [ -f "$state/files" ]; then
        grep -v " $1\$" "$state/files" >"$state/files.new" || true
    else
        : >"$state/files.new"
    fi
    echo "$sum $1" >>"$state/files.new"
    mv -f "$state/files.new" "$state/files"
    mkdir -p "$(dirname "$1")"
    cat "$work/new" >"$1.entrepot-new"
    mv -f "$1.entrepot-new" "$1"
    say "wrote $1"
}

# Whether we wrote the file, and nobody has changed it since.
noted() {
    [ -f "$state/files" ] && grep -qxF "$(cksum <"$1") $1" "$state/files"
}

note_folders() {
    [ ! -d "$1" ] || return 0
    note_folders "$(dirname "$1")"
    echo "$1" >>"$state/folders"
}

# The distribution's trust store: where the certificate goes ($anchor), and what makes the bundles anew ($refresh).
find_trust_store() {
    if [ -d /etc/pki/trust/anchors ] && command -v update-ca-certificates >/dev/null; then
        anchor=/etc/pki/trust/anchors/entrepot.crt refresh="update-ca-certificates"
    elif [ -d /etc/ssl/certs ] && command -v update-ca-certificates >/dev/null; then
        anchor=/usr/local/share/ca-certificates/entrepot.crt refresh="update-ca-certificates --fresh"
    elif [ -d /etc/pki/ca-trust/source/anchors ] && command -v update-ca-trust >/dev/null; then
        anchor=/etc/pki/ca-trust/source/anchors/entrepot.crt refresh="update-ca-trust extract"
    elif [ -d /etc/ca-certificates/trust-source/anchors ] && command -v update-ca-trust >/dev/null; then
        anchor=/etc/ca-certificates/trust-source/anchors/entrepot.crt refresh="update-ca-trust"
    else
        return 1
    fi
}

restart_units() {
    [ -f "$state/units" ] || return 0
    if [ ! -d /run/systemd/system ]; then
        say "systemd does not run here: start these anew yourself: $(tr '\n' ' ' <"$state/units")"
        return 0
    fi
    systemctl daemon-reload
    while read -r unit_to_restart; do
        systemctl try-restart "$unit_to_restart"
    done <"$state/units"
}

# Puts everything back. What somebody has changed since is left alone.
take_back() {
    if [ -f "$state/files" ]; then
        while read -r sum size path; do
            [ -e "$path" ] || continue
            if [ "$(cksum <"$path")" = "$sum $size" ]; then
                rm -f "$path"
                say "removed $path"
            else
                say "$path was changed since; it is left as it is"
            fi
        done <"$state/files"
    fi
    if [ -f "$state/folders" ]; then
        sed '1!G;h;$!d' "$state/folders" | while read -r folder; do
            rmdir "$folder" 2>/dev/null || true
        done
    fi
    if find_trust_store; then
        $refresh >/dev/null || say "$refresh failed: run it yourself"
    fi
    restart_units || say "a restart failed: see systemctl status"
    rm -rf "$state"
    rmdir "${state%/*}" 2>/dev/null || true
}
