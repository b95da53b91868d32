# shellcheck shell=sh disable=SC2034,SC2154
# Messages of the scripts of provision/, and their exit codes. $program is the name of the script.

# One line to whoever runs this, and the end. The code is one of sysexits: 64 usage, 66 no input, 69 unavailable,
# 73 cannot create, 77 permission, 78 configuration.
fail() {
  code=$1
  shift
  printf '%s: %s\n' "$program" "$*" >&2
  exit "$code"
}

say() {
  printf '%s: %s\n' "$program" "$*"
}

# The head of the script is its help.
usage() {
  sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"
}

# Debian's name, and the containers', of the architecture that a program is for; nothing for any other.
architecture_of() {
  case $(od -An -tu2 -j18 -N2 "$1" | tr -d ' ') in
    62) echo amd64 ;;
    183) echo arm64 ;;
  esac
}
