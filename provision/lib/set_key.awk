# Sets a key of a section in a TOML file and leaves everything else as it is. section: "[name]", key, and line, the whole
# new line. Comes from provision/configure.
function put() {
  print line
  done = 1
}

# The rest of an array that the old value began.
skipping {
  if ($0 ~ /\][ \t]*(#.*)?$/) skipping = 0
  next
}
/^[ \t]*\[/ {
  if (inside && !done) put()
  name = $0
  sub(/[ \t]*(#.*)?$/, "", name)
  inside = name == section
}
inside && !done && $0 ~ "^[ \t]*" key "[ \t]*=" {
  put()
  if ($0 ~ /=[ \t]*\[[^]]*$/) skipping = 1
  next
}
# Blank lines at the end of a section belong to the next one.
inside && !done && /^[ \t]*$/ { put() }
{ print }
END {
  if (!done) {
    if (!inside) print "\n" section
    put()
  }
}
