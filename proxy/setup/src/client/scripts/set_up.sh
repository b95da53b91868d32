# The set-up: checks first, then files, then restarts. A run that fails half-way is put back to the state before it.
proxy="@PROXY@"
fingerprint="@FINGERPRINT@"

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

# Writes every file or, while $checking, only checks whether it may be written.
place_all() {
    place "$anchor" <"$work/ca.pem"
    "place_$mode"
}

# Takes back the changes of this run only, not those of an earlier run or another runtime. Fails if a file cannot be put
# back; the caller then keeps the notes, with which undo continues.
put_back() {
    [ -f "$work/written" ] || return 0
    say "putting everything back"
    number=0 unrestored=
    while read -r path; do
        number=$((number + 1))
        if [ ! -e "$work/kept.$number" ]; then
            rm -f "$path" "$path.entrepot-new" || unrestored=yes
        elif cp -p "$work/kept.$number" "$path.entrepot-new"; then
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

# Puts the notes back to the state before this run, after the files.
put_notes_back() {
    rm -rf "$state"
    if [ -d "$work/state" ]; then
        cp -Rp "$work/state" "$state"
    else
        rmdir "${state%/*}" 2>/dev/null || true
    fi
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
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
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
    [ ! -d "$state" ] || cp -Rp "$state" "$work/state"
    restarting=
    trap '[ "$?" -eq 0 ] || ! put_back || put_notes_back; rm -rf "$work"' EXIT
    mkdir -p "$state"
    place_all
    if [ -n "$unit" ] && ! grep -qxF "$unit" "$state/units" 2>/dev/null; then
        echo "$unit" >>"$state/units"
    fi
    ${refresh%% --fresh} >/dev/null
    if [ -n "$unit" ]; then
        restarting=yes
        restart_units "$unit"
    fi
    say "@RUNTIME@ pulls through $proxy ($mode; CA SHA-256 $fingerprint); back: ${proxy}setup/undo"
}

main "$@" </dev/null
