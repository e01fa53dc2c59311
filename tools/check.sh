#!/usr/bin/env bash
# Everything that must pass before a commit lands: format, lint, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff format --check .
ruff check .
basedpyright
mkdocs build --quiet --site-dir "$(mktemp -d)"
pytest --durations=10 "$@"
# A process holds one TVM, Ansor's or today's.
[ $# -gt 0 ] || pytest --durations=5 tests/metaschedule
