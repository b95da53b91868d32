# shellcheck shell=sh disable=SC2034,SC2154
# Users, units and kernel settings, by systemd's own tools: on the running system, or in a tree by their --root.

# A tool for the tree: this machine's with --root, else the tree's own.
in_tree() {
  tool=$1
  shift
  if command -v "$tool" >/dev/null; then
    "$tool" --root="$root" "$@"
  else
    chroot "$root" "$tool" "$@"
  fi
}

make_users() {
  if [ -n "$root" ]; then
    grep -q '^entrepot:' "$root/etc/passwd" 2>/dev/null || changes=$((changes + 1))
    in_tree systemd-sysusers entrepot.conf
  elif ! getent passwd entrepot >/dev/null; then
    systemd-sysusers entrepot.conf
    changes=$((changes + 1))
  fi
}

enable_units() {
  set -- entrepot.service
  [ "$redirect" = no ] || set -- "$@" entrepot-redirect.service
  for unit; do
    [ ! -L "$root/etc/systemd/system/multi-user.target.wants/$unit" ] || continue
    if [ -n "$root" ]; then
      in_tree systemctl enable "$unit" >/dev/null 2>&1
    else
      systemctl enable "$unit" >/dev/null 2>&1
    fi
    say "enabled $unit"
    changes=$((changes + 1))
  done
}

# Puts in force what was written, and says how it stands.
settle() {
  if [ -n "$root" ]; then
    finish_line "in $root"
    return 0
  fi
  ! wrote /usr/lib/systemd/ || systemctl daemon-reload
  ! wrote /usr/lib/sysctl.d/ || /usr/lib/systemd/systemd-sysctl 60-entrepot.conf ||
    say 'some kernel settings of /usr/lib/sysctl.d/60-entrepot.conf are refused here; it works without'
  ! command -v restorecon >/dev/null || restorecon /usr/bin/entrepot
  for unit in entrepot.service entrepot-redirect.service; do
    systemctl is-enabled --quiet "$unit" || continue
    if ! systemctl is-active --quiet "$unit"; then
      verb=start
    elif wrote /usr/bin/entrepot "/usr/lib/systemd/system/$unit" /etc/entrepot/entrepot; then
      verb=restart
    else
      continue
    fi
    systemctl "$verb" "$unit" || fail 69 "$unit does not $verb: $(journalctl -qu "$unit" -n 1 -o cat)"
    say "${verb}ed $unit"
    changes=$((changes + 1))
  done
  if command -v firewall-cmd >/dev/null && firewall-cmd --state >/dev/null 2>&1 &&
    ! firewall-cmd --quiet --query-service=entrepot; then
    say 'firewalld lets nobody in yet: firewall-cmd --permanent --add-service=entrepot --add-service=mdns && firewall-cmd --reload'
  fi
  [ -z "$gateway" ] || name_firewall_rule
  finish_line 'on this machine'
}

# The rule that lets redirected packets in, for the firewall that is in force. They have the mark 0xe8 and the port that
# the client asked for.
name_firewall_rule() {
  if command -v firewall-cmd >/dev/null && firewall-cmd --state >/dev/null 2>&1; then
    zone=$(firewall-cmd --get-zone-of-interface="$gateway" 2>/dev/null || firewall-cmd --get-default-zone)
    say "firewalld has to let in what is redirected: firewall-cmd --permanent --zone=$zone --add-port=443/tcp --add-port=80/tcp && firewall-cmd --reload"
  elif command -v ufw >/dev/null && ufw status | grep -q '^Status: active'; then
    say 'ufw has to let in what is redirected: in /etc/ufw/before.rules, before COMMIT: -A ufw-before-input -m mark --mark 0xe8 -j ACCEPT'
  elif command -v nft >/dev/null && nft list chains 2>/dev/null | grep -q 'hook input'; then
    say 'the firewall (nft list ruleset) has to let in what is redirected: meta mark 0xe8 accept, in its chain at the hook input'
  fi
}

finish_line() {
  if [ "$changes" -eq 0 ]; then
    say "nothing to change $1"
  else
    say "entrepot is installed $1"
  fi
}
