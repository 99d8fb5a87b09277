# Sourced by `quickstart` and `check`: makes .venv with the package in it, when it is missing or
# older than pyproject.toml. QEQTRAIN_PIP_ARGS is handed to pip, for example an index.

find_python() {
  for candidate in "${PYTHON:-}" python3.11 python3 python python3.12 python3.13; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python of version 3.11 or newer is on PATH; set PYTHON=/path/to/python3.11" >&2
  return 2
}

# The stamp is written last, so a half-made environment is made again.
make_environment() {
  local stamp=.venv/.ready python
  if [ -f "$stamp" ] && [ ! pyproject.toml -nt "$stamp" ] && .venv/bin/python -c '' 2>/dev/null; then
    return
  fi
  python=$(find_python) || exit 2
  echo "Installing into .venv with $("$python" --version) ..."
  rm -f "$stamp"
  [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1 ||
    "$python" -m venv --clear .venv || {
      echo "error: cannot make .venv; does this Python have the module venv?" >&2
      exit 2
    }
  # shellcheck disable=SC2086  # several arguments in one variable are wanted here
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    ${QEQTRAIN_PIP_ARGS:-} -e '.[test]' || {
    echo "error: installing failed; QEQTRAIN_PIP_ARGS hands arguments to pip" >&2
    exit 2
  }
  touch "$stamp"
}
