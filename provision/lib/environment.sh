# shellcheck shell=sh disable=SC2034,SC2154
# An .env file, read as Compose reads one and never executed, and written as systemd reads one.
#
# Lines are NAME=VALUE, with or without `export`; values bare, "quoted" (with \" and \\) or 'quoted'; comments begin with #,
# after a bare value too where a space precedes it. A dollar sign stands for itself, so that a password may have one.

# read_variables FILE TARGET: writes TARGET for EnvironmentFile=, and TARGET.sh, which a shell reads.
read_variables() {
  { [ -f "$1" ] && [ -r "$1" ] && cat "$1" >/dev/null 2>&1; } || fail 66 "--env $1 cannot be read"
  (umask 077 && : >"$2" && : >"$2.sh")
  if ! LC_ALL=C awk -v shell="$2.sh" -v quoted="$2" -f "$here/lib/environment.awk" "$1" 2>"$work/error"; then
    fail 78 "nothing was changed: $1: $(head -n 1 "$work/error")"
  fi
}
