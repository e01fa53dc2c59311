#!/usr/bin/env bash
# Uses the wheel and the sdist as a new user does: fresh environments, a folder outside the
# repository. Two of them, side by side: the sdist by plain pip, with the newest Python of 3.11 and
# later that is installed, searches with today's TVM; the wheel with Ansor and the lower bounds of
# all dependencies, by uv with the oldest such Python, searches with Ansor.
#
#     tools/check_wheel.sh [--all | --with-torch]
#
# --all, before a release: also the wheel by plain pip with every Python that is installed, for each
# engine, the sdist with Ansor, and the lower bounds with today's TVM. --with-torch: the same, and
# the extra `ansor` whole; without it bitblas comes without its dependencies, as docs/installation.md
# says, which saves 6 GB of PyTorch and CUDA.
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

environment() { # PYTHON FOLDER REQUIREMENT...
  local python=$1 folder=$2
  shift 2
  "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
  "$folder/bin/python" -m pip check
}

searches() { # FOLDER ENGINE SNIPPET: what an environment must do, in a folder of its own
  local python=$1/bin/python cwm=$1/bin/cwm log=$1/measured.jsonl
  mkdir "$1/run" && cd "$1/run"
  "$cwm" info >/dev/null
  "$cwm" tune --engine "$2" --workload matmul:64,64,64 --trials 4 --log "$log" --json tuned.json
  [ -d "$log" ] && log=$log/records.jsonl
  "$cwm" score "$log" --out scores.jsonl
  [ "$(wc -l <scores.jsonl)" -eq "$(wc -l <"$log")" ]
  "$python" "$3"
}

plain() { # PYTHON PACKAGE
  local folder=$work/plain-environment
  environment "$1" "$folder" "$2"
  searches "$folder" metaschedule "$work/metaschedule.py"
  rm -rf "$folder"
}

ansor() { # PYTHON PACKAGE
  local folder=$work/ansor-environment
  if [ -n "${with_torch:-}" ]; then
    environment "$1" "$folder" "$2[ansor]"
  else
    environment "$1" "$folder" "$2[ansor-slim]"
    "$folder/bin/python" -m pip install --quiet --no-deps bitblas==0.1.0.post1
  fi
  searches "$folder" ansor "$work/ansor.py"
  rm -rf "$folder"
}

lowest() { # PYTHON WHEEL: the lower bounds of all direct dependencies
  local folder=$work/lowest-environment
  # As requirements of their own: those of a wheel are not direct ones. In another folder, or uv
  # would read the exact versions of the repository's pyproject.toml.
  cd "$work"
  python3 -c "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); print(next(z.read(n).decode() for n in z.namelist() if n.endswith('/METADATA')))" "$2" |
    sed -n 's/^Requires-Dist: //p' |
    grep -E "^[^;]*$|extra == '(ansor-slim|xgboost|report|parquet|onnx|tensorboard)'" |
    sed 's/ *;.*//' >lowest.txt
  "$uv" venv --quiet --python "$1" "$folder"
  "$uv" pip install --quiet --python "$folder/bin/python" --resolution lowest-direct -r lowest.txt
  "$uv" pip install --quiet --python "$folder/bin/python" --no-deps "$2" bitblas==0.1.0.post1
  searches "$folder" ansor "$work/ansor.py"
  if [ -n "${all:-}" ]; then
    rm -rf "$folder/run" "$folder/measured.jsonl"
    searches "$folder" metaschedule "$work/metaschedule.py"
  fi
  rm -rf "$folder"
}

case "${1:-}" in
  --with-torch) all=yes with_torch=yes ;;
  --all) all=yes ;;
esac
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

# Jobs run side by side; `set -e` holds in each of them, as it would not behind `||`.
declare -A jobs
start() { # NAME COMMAND...
  ("${@:2}") >"$work/$1.txt" 2>&1 &
  jobs[$1]=$!
}
finish() { # NAME...: waits for these
  local name
  for name in "$@"; do
    wait "${jobs[$name]}" || { cat "$work/$name.txt" && echo "$name: failed" >&2 && exit 1; }
    echo "$name: installed, searches run"
  done
}

newest=${pythons[-1]}
start newest plain "$newest" "$sdist"
start lower-bounds lowest "${pythons[0]}" "$wheel"
finish newest lower-bounds
if [ -n "${all:-}" ]; then
  for python in "${pythons[@]}"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    package=$wheel
    [ "$python" = "$newest" ] && package=$sdist
    start "plain-$version" plain "$python" "$wheel"
    start "ansor-$version" ansor "$python" "$package"
    finish "plain-$version" "ansor-$version"
  done
fi
