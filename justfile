# The tasks of this repository. Each is one command, so that nobody needs just: `just --show NAME` prints it.
#
# just is a Debian package since Debian 13 (apt-get install just), a wheel on PyPI (pipx install rust-just) and a crate
# (cargo install just).

# Arguments go on as they were typed, blanks in them included.
set positional-arguments

# This list.
[private]
default:
  @{{just_executable()}} --list --unsorted

# Tests that need neither root nor packages: under two minutes when all is compiled. Arguments: those of `cargo test`.
test *ARGUMENTS:
  cargo test {{ if ARGUMENTS =~ '(^| )(-p|--package)' { '' } else { '--workspace' } }} "$@"

# Every test, as root, on Debian: installs packages. Arguments: those of `cargo test`.
test-all *ARGUMENTS:
  tests/run "$@"

# Format, clippy, documentation, shell scripts, spelling, dependencies. Arguments: some of these steps (tests/lint).
lint *STEPS:
  tests/lint "$@"

# Measures the product beside nginx, as root (tests/bench/README.md). Arguments: sections, or options.
bench *ARGUMENTS:
  tests/bench/run "$@"

# The product from this tree. Arguments: those of `entrepot`.
run *ARGUMENTS='serve':
  cargo run -p entrepot -- "$@"
