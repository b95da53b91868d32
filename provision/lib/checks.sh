# shellcheck shell=sh disable=SC2034,SC2154
# The conditions that hold before provision/appliance writes anything. Each check says in one line what is wrong and
# what to do.

check_user() {
  [ "$(id -u)" -eq 0 ] || fail 77 'needs root; run it with sudo'
}

check_root() {
  if [ -n "$root" ]; then
    [ -d "$root" ] || fail 66 "--root $root is no directory"
    root=$(CDPATH='' cd "$root" && pwd)
    # The running system by another name.
    [ "$root" != / ] || root=''
  fi
  if [ -z "$root" ] && [ ! -d /run/systemd/system ]; then
    fail 69 'systemd does not run here; prepare the tree of a machine with --root DIR, or run the container image'
  fi
  if [ ! -d "$root/usr/lib/systemd/system" ]; then
    fail 69 "no systemd in ${root:-this machine}: /usr/lib/systemd/system is missing; install the package systemd there"
  fi
}

# The family decides nothing but words, yet a machine that nobody tried is named.
check_host() {
  release=$root/etc/os-release
  [ -r "$release" ] || release=$root/usr/lib/os-release
  [ -r "$release" ] || fail 69 "neither /etc/os-release nor /usr/lib/os-release says what ${root:-this machine} is"
  # shellcheck source=/dev/null
  families=$(ID='' ID_LIKE='' && . "$release" && printf ' %s %s ' "${ID:-}" "${ID_LIKE:-}")
  case $families in
    *' debian '* | *' ubuntu '*) install='apt-get install' ;;
    *' rhel '* | *' centos '* | *' fedora '*) install='dnf install' ;;
    *)
      install='install'
      say "${families# }is none of Debian, Ubuntu and Enterprise Linux: this may work and is untested"
      ;;
  esac
  for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem \
    /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem; do
    [ ! -s "$root$bundle" ] || return 0
  done
  fail 69 "no registry's certificate can be verified there: $install ca-certificates"
}

check_binary() {
  if [ -z "$binary" ]; then
    for binary in "$here/../target/release/entrepot" "$root/usr/bin/entrepot"; do
      [ ! -f "$binary" ] || break
    done
    [ -f "$binary" ] || fail 66 'there is no program to install; build it with cargo build --release, or name it with --binary FILE'
  fi
  { [ -f "$binary" ] && [ -r "$binary" ]; } || fail 66 "--binary $binary cannot be read"
  is_entrepot "$binary" || fail 78 "--binary $binary is not entrepot"
  # A tree may be for another architecture; the machine itself has to run it.
  runs=yes
  "$binary" --version >/dev/null 2>&1 || runs=no
  if [ -z "$root" ] && [ "$runs" = no ]; then
    fail 69 "$binary does not run on this machine: $("$binary" --version 2>&1 | head -n 1)"
  fi
}

# By what is in the file and not by running it, which may be for another architecture.
is_entrepot() {
  grep -aq ENTREPOT_CONFIG "$1"
}

check_gateway() {
  case $gateway in
    '') ;;
    *[!A-Za-z0-9_.-]* | -*) fail 64 "--gateway $gateway: this is no interface's name" ;;
    *) [ -n "$root" ] || [ -e "/sys/class/net/$gateway" ] || fail 66 "--gateway $gateway: this machine has no such interface" ;;
  esac
}

# A file of somebody else's that stands in the place of ours is never replaced.
check_foreign() {
  target=$root/usr/bin/entrepot
  if [ -e "$target" ] && ! is_entrepot "$target"; then
    fail 78 "/usr/bin/entrepot is somebody else's program; remove it first"
  fi
  if [ -e "$root/var/lib/dpkg/info/entrepot.list" ]; then
    fail 78 'entrepot is installed from its Debian package; upgrade or purge that'
  fi
  for unit in entrepot.service entrepot-redirect.service; do
    own=$root/etc/systemd/system/$unit
    if [ -e "$own" ] || [ -L "$own" ]; then
      fail 78 "/etc/systemd/system/$unit hides the unit of this name that would be installed; remove it (systemctl unmask $unit where it is masked), or put what it changes into $unit.d/"
    fi
  done
}

# The configuration that will be in force is validated: the file with the variables over it.
check_configuration() {
  [ "$runs" = yes ] || return 0
  file=$chosen
  # By a file and not by arguments, which every user of the machine can read while they stand.
  [ -e "$work/entrepot.env.sh" ] || : >"$work/entrepot.env.sh"
  # shellcheck disable=SC2016
  if ! env -i "PATH=$PATH" sh -c '. "$1" && exec "$2" check --config "$3"' sh "$work/entrepot.env.sh" "$binary" "$file" \
    >"$work/effective" 2>"$work/refusal"; then
    fail 78 "nothing was changed: $(grep -v '^notice: ' "$work/refusal" | head -n 1)"
  fi
}

# On the machine itself, where the server does not run yet: its ports have to be free. The registry's default ones need
# not be, it does without.
check_ports() {
  if [ -n "$root" ] || systemctl is-active --quiet entrepot.service; then
    return 0
  fi
  taken=$(awk '$4 == "0A" { sub(/.*:/, "", $2); print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null)
  wanted=$(grep -E '^(proxy|transparent|registry|admin)\.(listen|http|https|mirror_listen) ' "$work/effective" |
    grep -v '^registry.*# default\(;.*\)*$' | sed 's/ # .*//' | grep -o ':[0-9]*"' | tr -d ':"')
  for port in $wanted; do
    if printf '%s\n' "$taken" | grep -qx "$(printf %04X "$port")"; then
      fail 69 "nothing was changed: port $port is in use on this machine; stop what listens there, or take provision/install, whose registry is on 5000 and 5443"
    fi
  done
}
