# Puts a file back to what it was before. A file that somebody has changed since is left alone.
put_file_back() {
    [ -e "$path" ] || [ "$before" = yes ] || return 0
    present=-
    [ ! -e "$path" ] || present=$(sum "$path")
    if [ "$before" = yes ]; then
        of_entry content_base64 | base64 -d >"$work/before"
        [ "$present" != "$(sum "$work/before")" ] || return 0
    fi
    if [ "$present" != "$after" ] && [ "$present" != "$earlier" ]; then
        say "$path was changed since; it is left as it is"
    elif [ "$before" = no ]; then
        rm -f "$path"
        say "removed $path"
    else
        cat "$work/before" >"$path.entrepot-new"
        chmod "$(printf %o "$(of_entry mode)")" "$path.entrepot-new"
        chown "$(of_entry uid):$(of_entry gid)" "$path.entrepot-new"
        mv -f "$path.entrepot-new" "$path"
        say "restored $path"
    fi
}

# A member of the journal's text about the present file.
of_entry() {
    sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\).*/\1/p" "$work/entry.$number"
}

# Puts everything back, of every runtime.
take_back() {
    while read -r owner number after earlier before path; do
        put_file_back
    done <"$work/entries"
    cut -d ' ' -f 2- "$work/made" >"$work/folders"
    remove_folders "$work/folders"
    if find_trust_store; then
        $refresh >/dev/null || say "$refresh failed: run it yourself"
    fi
    # A unit's name has no spaces.
    # shellcheck disable=SC2046
    restart_units $(cut -d ' ' -f 2 "$work/units" | sort -u) || say "a restart failed: see systemctl status"
    for file in "$state"/*.json; do
        [ "$file" = "$state/kind.json" ] || rm -f "$file"
    done
    rmdir "$state" 2>/dev/null || true
}

main() {
    need_root
    # Half an undo is of no use: a signal that comes now ends nothing.
    trap : HUP INT PIPE TERM
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    read_journals
    if [ -e "$state/kind.json" ]; then
        say "the nodes of Kind stay set up: \"entrepot client undo --runtime kind\" reaches into them"
    fi
    if [ -s "$work/entries" ]; then
        take_back
    else
        say "nothing was set up here"
    fi
    finish
}

main </dev/null
