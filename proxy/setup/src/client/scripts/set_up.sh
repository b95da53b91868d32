# The set-up: checks first, then files, then restarts. A run that fails half-way is put back to the state before it.
runtime="@RUNTIME@"
proxy="@PROXY@"
fingerprint="@FINGERPRINT@"
# If not empty, files are only checked and nothing is written.
checking=

fetch() {
    if command -v curl >/dev/null; then
        curl -fgsS --noproxy '*' -o "$2" "$1"
    else
        env -u http_proxy -u HTTP_PROXY wget -q -O "$2" "$1"
    fi
}

# Prints the first certificate in the file, decoded. The fingerprint covers nothing else in the file.
first_certificate() {
    sed -n '/BEGIN CERTIFICATE/,/END CERTIFICATE/p' "$1" | sed '/END CERTIFICATE/q' | sed '/-----/d' |
        tr -cd 'A-Za-z0-9+/=' | base64 -d
}

# Prints a decoded certificate as PEM.
pem_of() {
    echo "-----BEGIN CERTIFICATE-----"
    base64 "$1" | tr -d '\n' | fold -w 64
    echo
    echo "-----END CERTIFICATE-----"
}

# The first of these units that is installed.
installed_unit() {
    for candidate in "$@"; do
        for folder in /etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
            if [ -e "$folder/$candidate" ]; then
                echo "$candidate"
                return
            fi
        done
    done
    return 1
}

# Fails if the unit has another proxy already.
refuse_other_proxy() {
    for file in /etc/default/"${1%.service}" /etc/sysconfig/"${1%.service}" /etc/systemd/system/"$1".env \
        /etc/systemd/system/"$1" /etc/systemd/system/"$1".d/*.conf /run/systemd/system/"$1".d/*.conf \
        /usr/lib/systemd/system/"$1" /usr/lib/systemd/system/"$1".d/*.conf; do
        if [ ! -f "$file" ] || [ "$file" = "/etc/systemd/system/$1.d/entrepot.conf" ]; then
            continue
        fi
        if grep -v '^[[:space:]]*[#;]' "$file" | grep -qiE "(^|[^A-Za-z0-9_])$2="; then
            fail 78 "$file gives $1 a proxy already; it stays as it is: remove that first"
        fi
    done
}

# Writes standard input to a file. While $checking, it only checks whether it may, and notes the plan. A file of somebody
# else is left alone.
place() {
    cat >"$work/new"
    new=$(sum "$work/new")
    find_entry "$1"
    now=-
    [ ! -e "$1" ] || now=$(sum "$1")
    if [ "$now" = "$new" ]; then
        if [ -z "$checking" ]; then
            say "$1 is as it should be"
        # A file that was there before every set-up is not ours.
        elif [ -n "$entry" ]; then
            echo "$new $entry - $1" >>"$work/plan"
        fi
        return 0
    fi
    if [ -n "$checking" ]; then
        [ "$now" = - ] || noted "$1" || fail 78 "$1 exists and is not ours; it stays as it is"
        [ -z "$other" ] ||
            fail 78 "$1 belongs to the set-up of $other with another appliance; \"entrepot client undo\" first"
        echo "$new 0 $now $1" >>"$work/plan"
        plan_folders "$(dirname "$1")"
        return 0
    fi
    keep "$1"
    mkdir -p "$(dirname "$1")"
    cat "$work/new" >"$1.entrepot-new"
    mv -f "$1.entrepot-new" "$1"
    say "wrote $1"
}

# Finds the number of a journal's entry for the file ($entry), and another runtime that has it too ($other).
find_entry() {
    entry='' other=''
    while read -r owner number _ _ _ path; do
        if [ "$path" = "$1" ]; then
            entry=$number
            [ "$owner" = "$runtime" ] || other=$owner
        fi
    done <"$work/entries"
}

# Succeeds if a set-up made the file, and nobody has changed it since.
noted() {
    present=$(sum "$1")
    while read -r _ _ after earlier before path; do
        if [ "$path" = "$1" ] && [ "$before" = no ] && { [ "$present" = "$after" ] || [ "$present" = "$earlier" ]; }; then
            return 0
        fi
    done <"$work/entries"
    return 1
}

plan_folders() {
    [ ! -d "$1" ] || return 0
    plan_folders "$(dirname "$1")"
    grep -qxF "$1" "$work/folders" || echo "$1" >>"$work/folders"
}

# Notes that this run writes the file, and keeps its present content, for the way back from a failure.
keep() {
    echo "$1" >>"$work/written"
    [ ! -e "$1" ] || cp -p "$1" "$work/kept.$(grep -c . "$work/written")"
}

# Writes the journal of this runtime: the plan, and what an earlier set-up of it noted besides. With "changing", digests
# that files have until they are replaced are in it too.
write_journal() {
    mkdir -p "$state"
    {
        printf '{\n  "version": 1,\n  "runtime": "%s",\n  "mode": "%s",\n' "$runtime" "$mode"
        printf '  "appliance": "%s",\n  "proxy_port": %s,\n' "@APPLIANCE@" "@PROXY_PORT@"
        printf '  "ca_sha256": "%s",\n  "files": [\n' "$fingerprint"
        json_files "$1" | sed '$!s/^    }$/    },/'
        printf '  ],\n  "made_folders": [\n'
        {
            sed -n "s/^$runtime //p" "$work/made"
            cat "$work/folders"
            folders_of_others
        } | sort -u | sed 's/.*/    "&"/; $!s/$/,/'
        printf '  ],\n  "commands": [\n'
        # A command's words have no spaces.
        # shellcheck disable=SC2086
        json_commands ${refresh%% --fresh}
        printf '  ],\n  "undo_commands": [\n'
        # shellcheck disable=SC2086
        json_commands $refresh
        printf '  ]\n}\n'
    } >"$journal.new"
    chmod 600 "$journal.new"
    mv -f "$journal.new" "$journal"
}

json_files() {
    while read -r owner number _ _ _ path; do
        if [ "$owner" = "$runtime" ] && ! grep -q " $path\$" "$work/plan"; then
            sed '$s/},$/}/' "$work/entry.$number"
        fi
    done <"$work/entries"
    while read -r new entry now path; do
        if [ "$entry" != 0 ]; then
            sed '$s/},$/}/' "$work/entry.$entry"
            continue
        fi
        printf '    {\n      "path": "%s",\n      "before": null,\n      "after_sha256": "%s"' "$path" "$new"
        if [ -n "$1" ] && [ "$now" != - ]; then
            printf ',\n      "earlier_sha256": "%s"' "$now"
        fi
        printf '\n    }\n'
    done <"$work/plan"
}

# The folders that another runtime's set-up made for a file that this one shares.
folders_of_others() {
    while read -r _ folder; do
        grep -q "^[^ ]* [^ ]* [^ ]* $folder/" "$work/plan" && echo "$folder"
    done <"$work/made"
    return 0
}

json_commands() {
    json_words "$@"
    if [ -n "$unit" ] && [ -d /run/systemd/system ]; then
        printf ',\n'
        json_words systemctl daemon-reload
        printf ',\n'
        json_words systemctl try-restart "$unit"
    fi
    printf '\n'
}

json_words() {
    printf '    [\n'
    printf '%s\n' "$@" | sed 's/.*/      "&"/; $!s/$/,/'
    printf '    ]'
}

# Writes every file or, while $checking, only checks whether it may be written.
place_all() {
    place "$anchor" <"$work/ca.pem"
    "place_$mode"
}

# Takes back the changes of this run only, not those of an earlier run or another runtime. Fails if a file cannot be put
# back; the caller then keeps the journal, with which undo continues.
put_back() {
    [ -f "$work/written" ] || return 0
    say "putting everything back"
    count=0 unrestored=
    while read -r path; do
        count=$((count + 1))
        if [ ! -e "$work/kept.$count" ]; then
            rm -f "$path" "$path.entrepot-new" || unrestored=yes
        elif cp -p "$work/kept.$count" "$path.entrepot-new"; then
            mv -f "$path.entrepot-new" "$path" || unrestored=yes
        else
            unrestored=yes
        fi
    done <"$work/written"
    remove_folders "$work/folders"
    $refresh >/dev/null || say "$refresh failed: run it yourself"
    [ -z "$restarting" ] || restart_units "$unit" || say "a restart failed: see systemctl status"
    [ -z "$unrestored" ]
}

# Puts the journal back to the state before this run, after the files.
put_journal_back() {
    if [ -e "$work/journal" ]; then
        cp -p "$work/journal" "$journal"
    else
        rm -f "$journal"
        rmdir "$state" 2>/dev/null || true
    fi
}

# The way back from a failure or a signal. Signals that come now change nothing.
go_back() {
    trap : HUP INT TERM
    if put_back; then
        put_journal_back
    fi
    rm -rf "$work"
}

main() {
    mode=proxy
    while [ "$#" -gt 0 ]; do
        case $1 in
            --mode)
                [ "$#" -gt 1 ] || fail 64 "--mode needs a word: proxy or mirror"
                mode=$2
                shift
                ;;
            --mode=*) mode=${1#--mode=} ;;
            *) fail 64 "unknown option $1; known: --mode proxy, --mode mirror" ;;
        esac
        shift
    done
    case $mode in proxy | mirror) ;; *) fail 64 "unknown mode \"$mode\"; known: proxy, mirror" ;; esac
    need_root
    find_unit
    find_trust_store || fail 78 "no known trust store: install the package ca-certificates, then run this again"
    journal=$state/$runtime.json
    # A reader that left ends nothing. Other signals end this, and what was done is taken back.
    trap : PIPE
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    : >"$work/plan"
    : >"$work/folders"
    read_journals
    fetch "${proxy}ca.crt" "$work/ca.crt" || fail 69 "${proxy}ca.crt cannot be fetched"
    first_certificate "$work/ca.crt" >"$work/ca.der" || :
    found=$(sha256sum <"$work/ca.der" | cut -d ' ' -f 1)
    [ "$found" = "$fingerprint" ] ||
        fail 77 "the certificate at ${proxy}ca.crt is not the expected one: expected SHA-256 $fingerprint, found $found"
    pem_of "$work/ca.der" >"$work/ca.pem"
    "check_$mode"
    checking=yes
    place_all
    checking=
    [ ! -e "$journal" ] || cp -p "$journal" "$work/journal"
    restarting=
    trap '[ "$?" -eq 0 ] || go_back' EXIT
    write_journal changing
    place_all
    ${refresh%% --fresh} >/dev/null
    if [ -n "$unit" ]; then
        restarting=yes
        restart_units "$unit"
    fi
    write_journal ''
    trap 'rm -rf "$work"' EXIT
    say "@RUNTIME@ pulls through $proxy ($mode; CA SHA-256 $fingerprint); back: ${proxy}setup/undo"
    finish
}

main "$@" </dev/null
