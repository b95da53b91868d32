# shellcheck shell=sh
# Makes a root directory of the machine's files and becomes a command in it. /usr and /var are layers over the
# machine's. /etc and the sources of the trust store are copies: programs of the machine may change them while a test
# compares them.
# Arguments: root, layers, number of binds, their pairs, then the command.
set -eu
root=$1 layers=$2 count=$3
shift 3
mount -t tmpfs none "$root"
mount -t tmpfs none "$layers"

# copy FOLDER PLACE: files that vanish meanwhile are a reason to begin again.
copy() {
  mkdir -p "$(dirname "$2")"
  for _ in 1 2 3 4 5; do
    rm -rf "$2"
    if cp -a "$1" "$2"; then
      return
    fi
  done
  echo "$1 cannot be copied" >&2
  exit 1
}

for entry in /*; do
  place=$root$entry
  case $entry in /ca | /docker_mirror_cache) continue ;; esac
  if [ -L "$entry" ]; then
    cp -a "$entry" "$place"
  elif [ -d "$entry" ]; then
    case $entry in
      /etc) copy /etc "$place" ;;
      /usr | /var)
        mkdir -p "$place" "$layers$entry/upper" "$layers$entry/work"
        mount -t overlay none -o "lowerdir=$entry,upperdir=$layers$entry/upper,workdir=$layers$entry/work" "$place"
        ;;
      *)
        mkdir "$place"
        mount --rbind "$entry" "$place"
        ;;
    esac
  fi
done
for folder in /usr/local/share/ca-certificates /usr/share/ca-certificates; do
  copy "$folder" "$layers/copies$folder"
  mount --bind "$layers/copies$folder" "$root$folder"
done
# update-ca-certificates appends to this file, and renames it in the end. It may have been at work during the copy.
rm -f "$root/etc/ssl/certs/ca-certificates.crt.new"
# Either may be a link that leads out of /etc.
for file in /etc/hosts /etc/resolv.conf; do
  rm -f "$root$file"
  cp "$file" "$root$file"
done
# The product may be installed on the machine, or the machine may be a client of one.
rm -rf "$root/etc/entrepot" "$root/var/lib/entrepot" "$root/var/lib/entrepot-client"
while [ "$count" -gt 0 ]; do
  mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
  shift 2
  count=$((count - 1))
done
exec chroot "$root" "$@"
