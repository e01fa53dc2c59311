#!/usr/bin/env bash
# Uses the wheel and the sdist as a new user does: plain pip, fresh environments, a folder outside
# the repository, every Python of 3.11 and later that is installed.
#
#     tools/check_wheel.sh [--with-torch]
#
# --with-torch installs the extra `ansor` whole; without it bitblas comes without its dependencies,
# as README says, which spares 7 GB of PyTorch and CUDA.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
uv=${UV:-uv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset VIRTUAL_ENV PYTHONPATH

"$uv" build --quiet --out-dir "$work/dist" "$repository"
wheel=$(echo "$work"/dist/*.whl)
sdist=$(echo "$work"/dist/*.tar.gz)
if tar -tzf "$sdist" | grep -E '/tools/(corpus|results)/'; then
  echo "the sdist holds corpora or results" >&2
  exit 1
fi

# Every README snippet, with 4 trials in place of 64.
snippet() { # MARKER OUT
  python3 - "$repository/README.md" "$1" <<'PYTHON' >"$2"
import re, sys
path, marker = sys.argv[1:]
code = re.search(rf"<!-- {marker} -->\s*```python\n(.*?)```", open(path).read(), re.DOTALL)[1]
few = re.sub(r"(num_measure_trials|max_trials_global)=64", r"\1=4", code)
assert few != code, "the snippet has no number of trials to lower"
print(few)
PYTHON
}
snippet snippet "$work/ansor.py"
snippet metaschedule "$work/metaschedule.py"

environment() { # PYTHON NAME REQUIREMENT...
  local python=$1 folder=$work/$2
  shift 2
  "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
  "$folder/bin/python" -m pip check
}

common() { # NAME ENGINE: what both engines' installations must do
  local cwm=$work/$1/bin/cwm log=$work/$1/measured.jsonl
  "$cwm" info >/dev/null
  "$cwm" tune --engine "$2" --workload matmul:64,64,64 --trials 4 --log "$log" --json tuned.json
  [ -d "$log" ] && log=$log/records.jsonl
  "$cwm" score "$log" --out scores.jsonl
  [ "$(wc -l <scores.jsonl)" -eq "$(wc -l <"$log")" ]
}

plain() { # PYTHON PACKAGE: what every installation can do, MetaSchedule's searches among it
  local name=plain-$(basename "$1")
  environment "$1" "$name" "$2"
  mkdir "$work/$name/run" && cd "$work/$name/run"
  common "$name" metaschedule
  "$work/$name/bin/python" "$work/metaschedule.py"
  rm -rf "${work:?}/$name"
}

ansor() { # PYTHON PACKAGE
  local name=ansor-$(basename "$1")
  if [ -n "${with_torch:-}" ]; then
    environment "$1" "$name" "$2[ansor]"
  else
    environment "$1" "$name" "$2[ansor-slim]"
    "$work/$name/bin/python" -m pip install --quiet --no-deps bitblas==0.1.0.post1
  fi
  mkdir "$work/$name/run" && cd "$work/$name/run"
  common "$name" ansor
  "$work/$name/bin/python" "$work/ansor.py"
  rm -rf "${work:?}/$name"
}

[ "${1:-}" = --with-torch ] && with_torch=yes
# pyenv's own installations are asked for, too: a shim is on PATH that may refuse to run.
pythons=()
for minor in $(seq 11 20); do
  for found in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"3.$minor".*/bin/python3; do
    if "$found" -c 'import ensurepip' 2>/dev/null; then
      pythons+=("$("$found" -c 'import sys; print(sys._base_executable)')")
      break
    fi
  done
done
[ ${#pythons[@]} -gt 0 ] || { echo "no Python of 3.11 or later is installed" >&2; exit 1; }

# Two at a time. The newest Python gets the sdist.
newest=${pythons[-1]}
for python in "${pythons[@]}"; do
  package=$wheel
  [ "$python" = "$newest" ] && package=$sdist
  (plain "$python" "$package") >"$work/plain.txt" 2>&1 & first=$!
  (ansor "$python" "$package") >"$work/ansor.txt" 2>&1 & second=$!
  failed=
  wait $first || { failed=yes; cat "$work/plain.txt"; }
  wait $second || { failed=yes; cat "$work/ansor.txt"; }
  [ -z "$failed" ] || { echo "$("$python" --version), $(basename "$package"): failed" >&2; exit 1; }
  echo "$("$python" --version), $(basename "$package"): installed by pip, both engines tune"
done
