# Sets a key of a section in a TOML file and leaves everything else as it is. section: "[name]", key, and line, the whole
# new line. Comes from provision/configure.
function put() {
  print line
  done = 1
}

# Blank lines are held back until it is known what follows them.
function release() {
  printf "%s", blank
  blank = ""
}

# The rest of an array that the old value began.
skipping {
  if ($0 ~ /\][ \t]*(#.*)?$/) skipping = 0
  next
}
inside && !done && /^[ \t]*$/ {
  blank = blank $0 "\n"
  next
}
/^[ \t]*\[/ {
  # Blank lines at the end of a section belong to the next one.
  if (inside && !done) put()
  release()
  name = $0
  sub(/[ \t]*(#.*)?$/, "", name)
  inside = name == section
}
{ release() }
inside && !done && $0 ~ "^[ \t]*" key "[ \t]*=" {
  put()
  if ($0 ~ /=[ \t]*\[[^]]*$/) skipping = 1
  next
}
{ print }
END {
  if (!done) {
    if (!inside) print "\n" section
    put()
  }
  release()
}
