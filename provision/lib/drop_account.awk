# Drops the accounts of one registry (registry, quoted) that are for all of it from a TOML file, and leaves everything
# else as it is. Comes from provision/configure.
function flush() {
  if (block != "" && !(ours && !part)) printf "%s", block
  block = ""
  ours = part = 0
}

/^[ \t]*\[/ {
  flush()
  inside = $0 ~ /^[ \t]*\[\[credentials\]\]/
}
inside {
  block = block $0 "\n"
  if ($0 ~ /^[ \t]*registry[ \t]*=/ && index($0, registry)) ours = 1
  if ($0 ~ /^[ \t]*repository[ \t]*=/) part = 1
  next
}
{ print }
END { flush() }
