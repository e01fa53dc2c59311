#!/usr/bin/env bash
# Everything that must pass before a commit lands: format, lint, types, documentation, tests, wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff format --check .
ruff check .
basedpyright
zensical build --clean
# Files of tests, two at a time and the long ones first: most of a test is one thread's work.
tests() { pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10 "$@"; }
tests "$@"
# A process holds one TVM, Ansor's or today's.
if [ $# -eq 0 ]; then
  tests tests/metaschedule
  tools/check_wheel.sh
fi
