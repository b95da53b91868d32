# Shared by the set-up scripts and their undo. Each runtime has a journal, $state/RUNTIME.json, with the files that were
# written and the folders that were made. It is there before the first change. `entrepot client` writes and reads the
# same files; both write one member on each line, and this script reads them so.
umask 022
state=/var/lib/entrepot-client
# The folder of this run. It keeps the parts of the journals, and the files that the run replaces.
work=
# Not empty after a line that nobody could read. The work goes on, and the exit code is 74.
unsaid=

say() {
    echo "entrepot: $*" 2>/dev/null || unsaid=yes
}

fail() {
    code=$1
    shift
    echo "entrepot: $*" >&2 || :
    exit "$code"
}

need_root() {
    [ "$(id -u)" -eq 0 ] || fail 77 "this changes files of the system: run it as root, for example with sudo sh"
}

sum() {
    sha256sum <"$1" | cut -d ' ' -f 1
}

# Reads all journals. $work/entries gets a line for each file: runtime, number, digest, earlier digest or "-", whether
# there was a file before, path. $work/entry.NUMBER is the journal's text about it. $work/made and $work/units get the
# folders and the services, each behind its runtime.
read_journals() {
    : >"$work/entries"
    : >"$work/made"
    : >"$work/units"
    number=0
    for file in "$state"/*.json; do
        [ ! -e "$file" ] || read_journal "$file"
    done
}

read_journal() {
    owner=${1##*/}
    owner=${owner%.json}
    part='' previous=''
    while IFS= read -r line; do
        case $line in
            '  "files": [') part=files ;;
            '  "made_folders": [') part=folders ;;
            '  "commands": [' | '  "undo_commands": [') part=commands ;;
            '  ]'*) part= ;;
        esac
        value=${line#*: }
        value=${value%,}
        value=${value#\"}
        value=${value%\"}
        case $part$line in
            'files    {')
                number=$((number + 1)) before=no earlier=-
                : >"$work/entry.$number"
                ;;
            'files      "path": '*) path=$value ;;
            'files      "before": {') before=yes ;;
            'files      "after_sha256": '*) after=$value ;;
            'files      "earlier_sha256": '*) earlier=$value ;;
            'files    }'*) echo "$owner $number $after $earlier $before $path" >>"$work/entries" ;;
            'folders    "'*) echo "$owner $(unquoted "$line")" >>"$work/made" ;;
            'commands      "'*)
                [ "$previous" != '      "try-restart",' ] || echo "$owner $(unquoted "$line")" >>"$work/units"
                ;;
        esac
        case $part$line in 'files    '*) printf '%s\n' "$line" >>"$work/entry.$number" ;; esac
        previous=$line
    done <"$1"
}

# The text of a line that is one JSON string.
unquoted() {
    text=${1#*\"}
    echo "${text%\"*}"
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

# Reads a list of folders, the uppermost first.
remove_folders() {
    [ -f "$1" ] || return 0
    sed '1!G;h;$!d' "$1" | while read -r folder_to_remove; do
        rmdir "$folder_to_remove" 2>/dev/null || true
    done
}

# Ends the run. The work is done, whoever could read about it.
finish() {
    [ -z "$unsaid" ] || exit 74
    exit 0
}
