# Reads an .env file; see environment.sh. `shell` and `quoted` are the files to write.
BEGIN {
  print "# docker-registry-proxy's variables, as provision/appliance read them. The units read this file." >quoted
}

{ sub(/\r$/, ""); sub(/^[ \t]+/, "") }
/^(#|$)/ { next }
{
  sub(/^export[ \t]+/, "")
  if (!match($0, /^[A-Za-z_][A-Za-z0-9_]*[ \t]*=/)) refuse("is not NAME=VALUE")
  name = substr($0, 1, RLENGTH - 1)
  sub(/[ \t]+$/, "", name)
  rest = substr($0, RLENGTH + 1)
  sub(/^[ \t]+/, "", rest)
  first = substr(rest, 1, 1)
  if (first == "\"" || first == "'") value = within(rest, first)
  else value = bare(rest)
  text = value
  gsub(/'/, "'\\\\''", text)
  print "export " name "='" text "'" >shell
  gsub(/[\\"`$]/, "\\\\&", value)
  print name "=\"" value "\"" >quoted
}

function bare(text) {
  if (substr(text, 1, 1) == "#") return ""
  sub(/[ \t]+#.*$/, "", text)
  sub(/[ \t]+$/, "", text)
  return text
}

# The text between two quotes; only a comment may follow.
function within(text, quote,    at, letter, value) {
  for (at = 2; at <= length(text); at++) {
    letter = substr(text, at, 1)
    if (letter == quote) {
      if (bare(substr(text, at + 1)) != "") refuse("has something behind the closing quote")
      return value
    }
    if (letter == "\\" && quote == "\"" && substr(text, at + 1, 1) ~ /["\\]/) letter = substr(text, ++at, 1)
    value = value letter
  }
  refuse("has a quote that is not closed on its line")
}

# The line itself is not shown: it may hold a password.
function refuse(why) {
  print "line " NR " " why >"/dev/stderr"
  exit 1
}
