# Shared by the set-up scripts and their undo. Everything is noted in $state before it is changed:
#   files    checksum, size and path of each file that was written
#   folders  folders that were made, the uppermost first
#   units    services to restart
umask 022
state=/var/lib/entrepot-client/script
# The folder of this run. It keeps the files that the run replaces, for the way back from a failure.
work=
# If not empty, files are only checked and nothing is written.
checking=

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

# Writes standard input to a file. A file of somebody else is left alone.
place() {
    cat >"$work/new"
    if [ -e "$1" ]; then
        if [ "$(cksum <"$work/new")" = "$(cksum <"$1")" ]; then
            [ -n "$checking" ] || say "$1 is as it should be"
            return 0
        fi
        noted "$1" || fail 78 "$1 exists and is not ours; it stays as it is"
    fi
    [ -z "$checking" ] || return 0
    keep "$1"
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

# Notes that this run writes the file, and keeps its present content, for the way back from a failure.
keep() {
    echo "$1" >>"$work/written"
    [ ! -e "$1" ] || cp -p "$1" "$work/kept.$(grep -c . "$work/written")"
}

# Succeeds if we wrote the file and nobody has changed it since.
noted() {
    [ -f "$state/files" ] && grep -qxF "$(cksum <"$1") $1" "$state/files"
}

note_folders() {
    [ ! -d "$1" ] || return 0
    note_folders "$(dirname "$1")"
    echo "$1" >>"$state/folders"
    echo "$1" >>"$work/folders"
}

# Finds the distribution's trust store: the file of the certificate ($anchor) and the command that rebuilds the bundles
# ($refresh). The undo reads $refresh alone.
# shellcheck disable=SC2034
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
    [ "$#" -gt 0 ] || return 0
    if [ ! -d /run/systemd/system ]; then
        say "systemd does not run here: restart these yourself: $*"
        return 0
    fi
    systemctl daemon-reload
    for unit_to_restart in "$@"; do
        systemctl try-restart "$unit_to_restart"
    done
}

remove_folders() {
    [ -f "$1" ] || return 0
    sed '1!G;h;$!d' "$1" | while read -r folder_to_remove; do
        rmdir "$folder_to_remove" 2>/dev/null || true
    done
}

# Puts everything back. A file that somebody has changed since is left alone.
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
    remove_folders "$state/folders"
    if find_trust_store; then
        $refresh >/dev/null || say "$refresh failed: run it yourself"
    fi
    # A unit's name has no spaces.
    # shellcheck disable=SC2046
    [ ! -f "$state/units" ] || restart_units $(cat "$state/units") || say "a restart failed: see systemctl status"
    rm -rf "$state"
    rmdir "${state%/*}" 2>/dev/null || true
}
