# shellcheck shell=bash
# How long each level of the checks takes. Sourced by .ci/run, tests/lint and tests/run; the outermost of them prints
# the table when it ends.

if [ -z "${ENTREPOT_LEVELS:-}" ]; then
  ENTREPOT_LEVELS=$(mktemp)
  export ENTREPOT_LEVELS
  trap print_levels EXIT
fi

# level NAME COMMAND…: runs the command and notes its time. A command that fails ends the script.
level() {
  local name=$1 began=$SECONDS
  shift
  printf '%s\tunfinished\n' "$name" >>"$ENTREPOT_LEVELS"
  "$@"
  sed -i '$d' "$ENTREPOT_LEVELS"
  printf '%s\t%d\n' "$name" "$((SECONDS - began))" >>"$ENTREPOT_LEVELS"
}

print_levels() {
  awk -F '\t' '
    BEGIN { print "\nlevel                   minutes:seconds" }
    $2 == "unfinished" { printf "%-24s%15s\n", $1, $2; next }
    { printf "%-24s%12d:%02d\n", $1, $2 / 60, $2 % 60; sum += $2 }
    END { printf "%-24s%12d:%02d\n", "together", sum / 60, sum % 60 }
  ' "$ENTREPOT_LEVELS"
  rm -f "$ENTREPOT_LEVELS"
}
