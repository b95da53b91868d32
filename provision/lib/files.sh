# shellcheck shell=sh disable=SC2034,SC2154
# Files of provision/appliance: staged beside their places, renamed together, and those of /etc/entrepot with a record of
# what was written, by which an administrator's change is known.
#
#   $work/staged     one line a file that will be replaced: its place in the tree
#   /etc/entrepot/.provisioned   sha256sum's lines of the files there as they were written

changes=0
record=/etc/entrepot/.provisioned

# stage SOURCE PLACE MODE: has SOURCE put to PLACE when all is staged. A file that is so already is left alone.
stage() {
  source=$1
  place=$2
  mode=$3
  if [ -f "$root$place" ] && [ ! -L "$root$place" ] && cmp -s "$source" "$root$place" &&
    [ "$(stat -c '%04a %u %g' "$root$place")" = "$mode 0 0" ]; then
    return 0
  fi
  folder=$root$(dirname "$place")
  printf '%s\n' "$place" >>"$work/staged"
  { make_folder "$folder" && install -m "$mode" -o 0 -g 0 "$source" "$root$place.entrepot-new"; } 2>"$work/error" ||
    fail 73 "nothing was changed: cannot write $root$place: $(head -n 1 "$work/error")"
}

# A folder and those above it that are missing, noted for unstage.
make_folder() {
  missing=$1
  while [ ! -d "$missing" ]; do
    printf '%s\n' "$missing" >>"$work/made"
    missing=$(dirname "$missing")
  done
  install -d -m 0755 "$1"
}

# Every file below a folder, to the same place below the root.
stage_tree() {
  tree=$1
  find "$tree" -type f | LC_ALL=C sort >"$work/tree"
  while IFS= read -r file; do
    stage "$file" "${file#"$tree"}" 0644
  done <"$work/tree"
}

# The units' settings for a gateway. Variables of /etc/entrepot/entrepot.env come after them.
stage_gateway() {
  cat >"$work/server.conf" <<EOF
# Written by provision/appliance --gateway: a gateway's door accepts connections to other machines' addresses.
[Service]
AmbientCapabilities=CAP_NET_BIND_SERVICE CAP_NET_ADMIN
CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_NET_ADMIN
EOF
  cat >"$work/agent.conf" <<EOF
# Written by provision/appliance --gateway.
[Service]
Environment="ENTREPOT_REDIRECT=gateway --interface $gateway"
EOF
  stage "$work/server.conf" /etc/systemd/system/entrepot.service.d/gateway.conf 0644
  stage "$work/agent.conf" /etc/systemd/system/entrepot-redirect.service.d/gateway.conf 0644
}

# Whether /etc/entrepot/NAME is an administrator's: there, and not as an earlier run left it.
is_changed() {
  file=$root/etc/entrepot/$1
  [ -e "$file" ] || return 1
  sum=$(sha256sum <"$file")
  ! grep -qxF "${sum%% *}  $1" "$root$record" 2>/dev/null
}

# Which configuration will be in force: ours, or the one that an administrator made of it.
choose_configuration() {
  [ -r "$configuration" ] || fail 66 "--configuration $configuration cannot be read"
  chosen=$configuration
  if is_changed entrepot.toml && ! cmp -s "$configuration" "$root/etc/entrepot/entrepot.toml"; then
    chosen=$root/etc/entrepot/entrepot.toml
  fi
  if [ -n "$variables" ] && is_changed entrepot.env && ! cmp -s "$work/entrepot.env" "$root/etc/entrepot/entrepot.env"; then
    fail 78 "/etc/entrepot/entrepot.env is not as it was installed, so $variables does not replace it; move it away, or say what is meant there"
  fi
}

# Keeps an appliance as open as it was. The default of registry.anonymous was "push" in earlier releases and is "pull"
# now, so "push" is written into an administrator's configuration that leaves the key out.
complete_configuration() {
  completed=''
  [ "$chosen" != "$configuration" ] && grep -q '^anonymous = "push"' "$configuration" || return 0
  if [ "$runs" = no ]; then
    say 'registry.anonymous cannot be looked up, as the program does not run here; without it the default is "pull"'
    return 0
  fi
  grep -q '^registry\.anonymous .*# default' "$work/effective" || return 0
  completed=$work/completed.toml
  cat "$chosen" >"$completed"
  env -i "PATH=$PATH" "$binary" config set --config "$completed" registry.anonymous push \
    </dev/null >/dev/null 2>"$work/refusal" ||
    fail 78 "nothing was changed: registry.anonymous cannot be set: $(grep -v '^notice: ' "$work/refusal" | head -n 1)"
}

stage_configuration() {
  place=/etc/entrepot/entrepot.toml
  if [ "$chosen" = "$configuration" ]; then
    stage "$configuration" "$place" 0644
  elif [ -n "$completed" ]; then
    stage "$completed" "$place" "$(stat -c '%04a' "$root$place")"
    chown --reference="$root$place" "$root$place.entrepot-new"
    say "$place has been changed here; registry.anonymous = \"push\" was added, which was the default, and all else stays as it is"
  else
    say "$place has been changed here and stays as it is"
  fi
  [ ! -f "$work/entrepot.env" ] || stage "$work/entrepot.env" /etc/entrepot/entrepot.env 0600
  {
    [ "$chosen" != "$configuration" ] || recorded "$configuration" entrepot.toml
    if [ -f "$work/entrepot.env" ]; then
      recorded "$work/entrepot.env" entrepot.env
    else
      grep ' entrepot.env$' "$root$record" 2>/dev/null || :
    fi
  } >"$work/record"
  stage "$work/record" "$record" 0600
}

recorded() {
  sum=$(sha256sum <"$1")
  printf '%s  %s\n' "${sum%% *}" "$2"
}

# Renames what is staged.
commit() {
  [ -s "$work/staged" ] || return 0
  while IFS= read -r place; do
    mv -f "$root$place.entrepot-new" "$root$place"
    say "wrote $place"
    changes=$((changes + 1))
  done <"$work/staged"
}

# Takes away what was staged and is not in its place, and the folders that were made for it.
unstage() {
  [ -s "$work/staged" ] || return 0
  while IFS= read -r place; do
    rm -f "$root$place.entrepot-new"
  done <"$work/staged"
  [ -s "$work/made" ] || return 0
  LC_ALL=C sort -r "$work/made" | while IFS= read -r folder; do
    # One that is in use is not empty.
    rmdir "$folder" 2>/dev/null || :
  done
}

# Whether this run wrote a place that begins with one of the arguments.
wrote() {
  for place; do
    ! grep -q "^$place" "$work/staged" 2>/dev/null || return 0
  done
  return 1
}
