# Set-up itself: checks first, then files, then restarts; what fails half-way is put back.
proxy="@PROXY@"
fingerprint="@FINGERPRINT@"

fetch() {
    if command -v curl >/dev/null; then
        curl -fgsS --noproxy '*' -o "$2" "$1"
    else
        env -u http_proxy -u HTTP_PROXY wget -q -O "$2" "$1"
    fi
}

# Prints the SHA-256 of the first certificate in the file.
fingerprint_of() {
    sed -n '/BEGIN CERTIFICATE/,/END CERTIFICATE/p' "$1" | sed '/END CERTIFICATE/q' | sed '/-----/d' |
        base64 -d | sha256sum | cut -d ' ' -f 1
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

# Refuses where somebody has given the unit a proxy already.
refuse_other_proxy() {
    for file in /etc/default/"${1%.service}" /etc/sysconfig/"${1%.service}" /etc/systemd/system/"$1".env \
        /etc/systemd/system/"$1" /etc/systemd/system/"$1".d/*.conf /run/systemd/system/"$1".d/*.conf \
        /usr/lib/systemd/system/"$1" /usr/lib/systemd/system/"$1".d/*.conf; do
        [ -f "$file" ] && [ "$file" != "/etc/systemd/system/$1.d/entrepot.conf" ] || continue
        if grep -v '^[[:space:]]*[#;]' "$file" | grep -qiE "(^|[^A-Za-z0-9_])$2="; then
            fail 78 "$file gives $1 a proxy already; it is left as it is: take that away first"
        fi
    done
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
    found=$(fingerprint_of "$work/ca.crt")
    [ "$found" = "$fingerprint" ] ||
        fail 77 "the certificate at ${proxy}ca.crt is not the expected one: expected SHA-256 $fingerprint, found $found"
    "check_$mode"
    mkdir -p "$state"
    trap 'status=$?; [ "$status" -eq 0 ] || { say "putting everything back"; take_back; }; rm -rf "$work"' EXIT
    place "$anchor" <"$work/ca.crt"
    "place_$mode"
    if [ -n "$unit" ] && ! grep -qxF "$unit" "$state/units" 2>/dev/null; then
        echo "$unit" >>"$state/units"
    fi
    ${refresh%% --fresh} >/dev/null
    [ -z "$unit" ] || restart_units
    say "@RUNTIME@ pulls through $proxy ($mode; CA SHA-256 $fingerprint); back: ${proxy}setup/undo"
}

main "$@" </dev/null
